"""HTTP: the ASGI application, the middleware in front of it, and the uvicorn server around it."""
