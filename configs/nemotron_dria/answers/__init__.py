from answers.task import Answers

__all__ = ["Answers"]
