"""What this code location runs, in YAML."""
