from .pipeline import NemotronQA

__all__ = ["NemotronQA"]
