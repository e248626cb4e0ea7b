"""How findings are shown, whatever they are: documents, figures, and their renderers."""
