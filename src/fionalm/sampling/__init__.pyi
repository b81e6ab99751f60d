from .records import SampleRecord as SampleRecord
from .records import SampleStore as SampleStore
from .types import Completion as Completion
from .types import Sampler as Sampler
from .types import SamplingParams as SamplingParams
from .types import sample_seed as sample_seed
