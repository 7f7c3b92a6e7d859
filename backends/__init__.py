"""Backend plug-ins for crucible: tinkex, fake, peft, openai and litellm, and the tinkex development server.

A plug-in is loaded by its entry-point name (group ``crucible.backends``); ``nsai_work`` imports none of them.
"""
