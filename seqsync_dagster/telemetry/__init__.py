"""OpenTelemetry: what a run does, as traces, metrics and logs. Only the modules that say so import its packages."""
