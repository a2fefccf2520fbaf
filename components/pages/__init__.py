"""What all pages share: style, the text of figures, drawings that take their colours from the page."""
