from .task import NemotronQuestionStep

__all__ = ["NemotronQuestionStep"]
