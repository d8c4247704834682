"""The command line of the judge, a file a command."""
