"""What is kept about a run for people: metrics, per-case tables, overlays, a model card, in MLflow.

`store` writes, `ui` serves what was written, `planes` and `overlay` draw a case, `card` words the model card.
MLflow and matplotlib are imported by the calls that need them.
"""
