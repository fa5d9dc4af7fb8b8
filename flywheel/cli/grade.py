def command() -> None:
    """todo"""
