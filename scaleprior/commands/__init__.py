"""The subcommands of ``scaleprior``: one module each, with ``register(subparsers)``; heavy imports in handlers only."""
