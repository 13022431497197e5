from topics.task import Subtopics

__all__ = ["Subtopics"]
