"""The look of figures: colours, styles, labels, words."""
