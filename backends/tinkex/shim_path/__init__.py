"""The folder that ``nsai-work shim`` puts in front of a program's path; it holds a package ``tinker``."""
