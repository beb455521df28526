"""From YAML files and arguments to a checked configuration."""
