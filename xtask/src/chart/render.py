"""Renders a chart with each set of values, lints it, and checks what comes of it against the schemas of Kubernetes.

Prints JSON: `faults`, each a sentence, and `sets`, each with its `name`, the `given` text of its values and its `objects`.
"""

import json
import os
import sys

import helm_python as helm
import kubernetes_validate
import yaml

# Resources of others, which Kubernetes has no schemas for.
FOREIGN = {"Certificate", "ServiceMonitor"}
# As long as Helm allows: what names are made of it must still be names.
LONG = "a-release-name-that-is-as-long-as-helm-lets-it-be-abc"


def main(folder):
    faults = []
    ci = os.path.join(folder, "ci")
    files = sorted(name for name in os.listdir(ci) if name.endswith(".yaml"))
    sets = [("defaults", "", "mi"), ("a long name", "", LONG)]
    for name in files:
        with open(os.path.join(ci, name), encoding="utf-8") as file:
            sets.append((name, file.read(), "mi"))
    # Each is there twice, the second time with its strict schemas.
    versions = list(dict.fromkeys(version.rsplit(".", 1)[0] for version in kubernetes_validate.utils.all_versions()))[-2:]
    rendered = []
    with helm.Chart.load(folder) as chart:
        for name, text, release in sets:
            values = yaml.safe_load(text) or {}
            report = helm.lint(folder, values, strict=True)
            faults += [f"{name}: lint: {found['path']}: {found['error']}" for found in report["messages"] if found["severity"] > 1]
            try:
                manifests = chart.render(values, name=release, namespace="mi", is_install=True)
            except helm.HelmError as error:
                faults.append(f"{name}: {error}")
                continue
            objects = []
            for path, manifest in sorted(manifests.items()):
                if path.endswith((".yaml", ".yml")):
                    objects += [found for found in yaml.safe_load_all(manifest) if found]
            for found in objects:
                faults += [f"{name}: {fault}" for version in versions for fault in validated(found, version)]
            rendered.append({"name": name, "given": text, "objects": objects})
    json.dump({"faults": faults, "versions": versions, "sets": rendered}, sys.stdout)


def validated(found, version):
    """What is wrong with an object, by the strict schema of a version."""
    what = f"{found.get('kind')} {found.get('metadata', {}).get('name')}, Kubernetes {version}"
    try:
        kubernetes_validate.validate(found, version, strict=True)
    except kubernetes_validate.ValidationError as error:
        return [f"{what}: {'.'.join(str(part) for part in error.path)}: {error.message}"]
    except kubernetes_validate.SchemaNotFoundError as error:
        return [] if found.get("kind") in FOREIGN else [f"{what}: {error.message}"]
    return []


try:
    main(sys.argv[1])
except helm.HelmError as error:
    sys.exit(str(error))
