"""Time series from files: `.ts` of the UEA archive, `.tsv` of the UCR archive and `.npz`, as tensors."""
