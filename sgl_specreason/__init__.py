"""SpecReason (arXiv 2504.07891) as SGLang structured programs."""
