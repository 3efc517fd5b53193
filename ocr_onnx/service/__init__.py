"""The HTTP service. Needs the extra `serve`; this is the one package that knows HTTP servers."""
