"""`python -m terralabel`, for `torchrun` and for places where the command is not on the path."""

from terralabel.cli.main import run

if __name__ == "__main__":
    run()
