"""`python -m tools.pirn`: the command `pirn`."""

from tools.pirn import command

if __name__ == "__main__":
    command.main()
