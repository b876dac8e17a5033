"""The bundled pair of tiny models and the problems it was trained on."""
