"""Gradio only: what people see and press."""
