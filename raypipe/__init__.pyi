"""The types of what `__init__.py` loads by its table when it is first asked for."""

from raypipe.errors import InfrastructureError as InfrastructureError
from raypipe.errors import InputError as InputError
from raypipe.errors import OutputError as OutputError
from raypipe.errors import RaypipeError as RaypipeError
from raypipe.errors import RowError as RowError
from raypipe.errors import SpecError as SpecError
from raypipe.errors import StoppedError as StoppedError
from raypipe.models import LLM as LLM
from raypipe.pipeline import Pipeline as Pipeline
from raypipe.results import DryRun as DryRun
from raypipe.results import Result as Result
from raypipe.steps import Filter as Filter
from raypipe.steps import GeneratorStep as GeneratorStep
from raypipe.steps import GlobalStep as GlobalStep
from raypipe.steps import KeepColumns as KeepColumns
from raypipe.steps import LoadDataFromDicts as LoadDataFromDicts
from raypipe.steps import LoadDataFromFileSystem as LoadDataFromFileSystem
from raypipe.steps import LoadDataFromHub as LoadDataFromHub
from raypipe.steps import Step as Step
from raypipe.steps import StepInput as StepInput
from raypipe.steps import StepResources as StepResources
from raypipe.steps import Task as Task
from raypipe.steps import TextGeneration as TextGeneration
from raypipe.steps import make_generator_step as make_generator_step
from raypipe.steps import step as step
from raypipe.steps import task as task

__version__: str
