"""One module a stage: Settings, METRICS, main(settings, run)."""
