"""Chat to tokens and back: templates, tokenizers, control text, media, and the parsing of model output."""
