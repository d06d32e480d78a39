"""The app: stacks that `cdk deploy` deploys as they are."""
