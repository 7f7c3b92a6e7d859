// Shows the state of the page, live or away, and comes back by itself when the store or the server does.
(() => {
  "use strict";
  const main = document.getElementById("main");
  const state = document.getElementById("state");
  if (!main || !state) return;

  const show = (name, text) => {
    if (state.className !== `state ${name}`) state.className = `state ${name}`;
    if (state.textContent !== text) state.textContent = text;
    main.classList.toggle("stale", name === "away");
  };

  if ("away" in main.dataset) {
    // a page of an error: load it again once the server answers without one
    const retry = async () => {
      try {
        const answer = await fetch(location.href, { headers: { Accept: "text/html" } });
        if (answer.status !== 503) return location.reload();
      } catch { /* the server is away too */ }
      setTimeout(retry, 2000);
    };
    setTimeout(retry, 2000);
    return;
  }

  const clock = () => new Date().toLocaleTimeString([], { hour12: false });
  const message = (event) => {
    try { return JSON.parse(event.detail.data).message; } catch { return ""; }
  };
  main.addEventListener("htmx:sse:after:connection", (event) => {
    if (event.detail.connection.status === 200) show("live", "live");
  });
  // the first request of the stream is one that htmx does not repeat
  const connect = () => htmx.ajax("GET", main.getAttribute("hx-sse:connect"), { source: main });
  const refused = (why) => {
    show("away", `${why}; as of ${clock()}`);
    setTimeout(connect, 2000);
  };
  main.addEventListener("htmx:error", (event) => {
    if (event.target === main) refused("the page's server does not answer");
  });
  main.addEventListener("htmx:before:response", (event) => {
    const answer = event.detail.ctx.response;
    if (event.target !== main || answer.status === 200) return;
    event.preventDefault();
    refused(`the page's server refuses to send changes (${answer.status})`);
  });
  main.addEventListener("htmx:sse:error", () => show("away", `the page's server does not answer; as of ${clock()}`));
  main.addEventListener("away", (event) => {
    show("away", `the job store does not answer; as of ${clock()}`);
    state.title = message(event);
  });
  main.addEventListener("back", () => { show("live", "live"); state.title = ""; });
})();
