"""Fine-tunes language models into specialists, and proves it."""
