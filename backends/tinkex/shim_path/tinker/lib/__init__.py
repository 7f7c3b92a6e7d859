"""The modules of the Tinker SDK that programs import from."""
