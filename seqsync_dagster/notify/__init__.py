"""Messages to people and machines: what they say, and how they get there. Knows neither Dagster nor the engine."""
