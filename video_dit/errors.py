"""The error contract: what a user can cause is a UserError; what only a bug can cause is an assert or anything else."""


class UserError(ValueError):
    """Names the file or key, what was found, what was expected and what to do; programs print it and exit with 2."""


class RankError(UserError):
    """What befalls one of several ranks, which tells it; other errors are those of all, and told once."""
