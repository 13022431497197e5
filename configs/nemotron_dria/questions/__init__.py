from questions.task import Questions

__all__ = ["Questions"]
