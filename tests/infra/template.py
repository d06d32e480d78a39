"""Templates as CloudFormation would read them, and questions about them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

PSEUDO = {
    "AWS::Partition": "aws",
    "AWS::Region": "eu-west-1",
    "AWS::AccountId": "123456789012",
    "AWS::URLSuffix": "amazonaws.com",
    "AWS::StackName": "stack",
}


class Template:
    """One stack."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.body: dict[str, Any] = json.loads(path.read_text())
        self.resources: dict[str, Any] = self.body.get("Resources", {})

    def of_type(self, kind: str) -> dict[str, Any]:
        """Properties of every resource of a type, by logical id."""
        return {name: found.get("Properties", {}) for name, found in self.resources.items() if found["Type"] == kind}

    def one(self, kind: str) -> Any:
        """Properties of the only resource of a type."""
        (found,) = self.of_type(kind).values()
        return found

    def text(self, value: Any) -> str:
        """A value with references in place: pseudo parameters by example, `<LogicalId.Attribute>` for the rest."""
        match value:
            case {"Ref": str(name)}:
                return PSEUDO.get(name, f"<{name}>")
            case {"Fn::GetAtt": [name, attribute]}:
                return f"<{name}.{attribute}>"
            case {"Fn::Join": [separator, parts]}:
                return str(separator).join(self.text(part) for part in parts)
            case {"Fn::ImportValue": name}:
                return f"<{self.text(name)}>"
            case {"Fn::Sub": str(text)}:
                return text
        return str(value)

    def environment(self) -> dict[str, str]:
        """The proxy's variables."""
        container = self.one("AWS::ECS::TaskDefinition")["ContainerDefinitions"][0]
        return {entry["Name"]: self.text(entry["Value"]) for entry in container["Environment"]}

    def secrets(self) -> dict[str, str]:
        """The proxy's variables that ECS fetches, and what from."""
        container = self.one("AWS::ECS::TaskDefinition")["ContainerDefinitions"][0]
        return {entry["Name"]: self.text(entry["ValueFrom"]) for entry in container.get("Secrets", ())}


class Assembly:
    """All stacks of one configuration."""

    def __init__(self, folder: Path, prefix: str) -> None:
        self.folder = folder
        self.prefix = prefix

    def __getitem__(self, kind: str) -> Template:
        return Template(self.folder / f"{self.prefix}-{kind}.template.json")

    @property
    def paths(self) -> list[Path]:
        """Every template."""
        return sorted(self.folder.glob("*.template.json"))

    def __iter__(self) -> Iterator[Template]:
        return (Template(path) for path in self.paths)


def statements(template: Template) -> Iterator[tuple[str, Any]]:
    """Every statement of every IAM policy, with the logical id of what it belongs to."""
    for name, found in template.resources.items():
        properties = found.get("Properties", {})
        if found["Type"] in ("AWS::IAM::Policy", "AWS::IAM::ManagedPolicy"):
            yield from ((name, statement) for statement in properties["PolicyDocument"]["Statement"])
        if found["Type"] == "AWS::IAM::Role":
            for policy in properties.get("Policies", ()):
                yield from ((name, statement) for statement in policy["PolicyDocument"]["Statement"])


def listed(value: Any) -> list[Any]:
    """One or several, as a list."""
    return value if isinstance(value, list) else [value]
