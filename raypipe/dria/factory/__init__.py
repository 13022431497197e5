"""The address from which programs of Dria import helpers of steps; its ready-made pipelines are files here."""

from __future__ import annotations

_SHIPPED = {
    "NemotronQA": "copy the folder configs/nemotron_dria beside your program; from pipeline import NemotronQA",
    "SubTopicPipeline": "run configs/topic_tree.yaml",
    "ListExtenderPipeline": "run configs/extend_list.yaml",
    "PersonaPipeline": "run configs/personas.yaml",
    "QAPipeline": "run configs/document_qa.yaml",
}


def __getattr__(name: str) -> object:
    if name in _SHIPPED:
        raise ImportError(f"raypipe ships {name} as a pipeline to read and change; {_SHIPPED[name]}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
