from .task import NemotronSubtopicStep

__all__ = ["NemotronSubtopicStep"]
