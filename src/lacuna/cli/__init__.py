"""The command line: one module per command, listed in `lacuna.cli.main`."""
