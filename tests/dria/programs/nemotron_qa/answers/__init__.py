from .task import NemotronAnswerStep

__all__ = ["NemotronAnswerStep"]
