from .at_k import best_of_k as best_of_k
from .at_k import majority_at_k as majority_at_k
from .at_k import pass_at_k as pass_at_k
