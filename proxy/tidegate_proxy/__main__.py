"""`python -m tidegate_proxy` is `tidegate-proxy`."""

from tidegate_proxy.cli import main

if __name__ == "__main__":
    main()
