"""The functions behind the command line, one a command: they parse, call and print."""
