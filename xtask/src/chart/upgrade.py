"""Installs a chart, upgrades it and removes it, on an API server that knows just enough for that, and looks at its Secrets.

What the chart makes once it must keep: the master key opens what the database holds. Only a server can be asked for what is
there already. Prints JSON: a list of faults, each a sentence.
"""

import json
import re
import sys
import threading
import uuid
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import helm_python as helm

CORE = "ConfigMap Namespace PersistentVolumeClaim Pod Secret Service ServiceAccount"
GROUPS = {
    "apps/v1": "Deployment StatefulSet",
    "networking.k8s.io/v1": "NetworkPolicy",
    "policy/v1": "PodDisruptionBudget",
    "rbac.authorization.k8s.io/v1": "ClusterRole ClusterRoleBinding",
}
OBJECT = re.compile(r"^/(?:api/v1|apis/[^/]+/[^/]+)(?:/namespaces/[^/]+)?/[a-z]+(/[^/]+)?$")
# An OpenAPI document that describes nothing, so that Helm checks nothing by it.
OPENAPI = bytes([0x0A, 3]) + b"2.0" + bytes([0x12, 4, 0x0A, 0, 0x12, 0])
NAMESPACE = "/api/v1/namespaces/mi"
SECRETS = f"{NAMESPACE}/secrets/"


def plural(kind):
    name = kind.lower()
    return name[:-1] + "ies" if name.endswith("y") else name + "s"


def resources(version, kinds):
    listed = [
        {"name": plural(kind), "singularName": "", "kind": kind, "verbs": ["get"],
         "namespaced": not kind.startswith("Cluster") and kind != "Namespace"}
        for kind in kinds.split()
    ]
    return {"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": version, "resources": listed}


class Server(BaseHTTPRequestHandler):
    """The API: what is applied is what is stored."""

    protocol_version = "HTTP/1.1"
    stored = {
        NAMESPACE: {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "mi"}},
        # Every namespace has it: by that the chart knows that it can look.
        f"{NAMESPACE}/configmaps/kube-root-ca.crt": {
            "apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "kube-root-ca.crt", "namespace": "mi"},
        },
    }

    def log_message(self, *_):
        pass

    def answer(self, code, body, kind="application/json"):
        body = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.send_response(code)
        self.send_header("content-type", kind)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def missing(self):
        self.answer(404, {"kind": "Status", "apiVersion": "v1", "status": "Failure", "reason": "NotFound", "code": 404})

    def do_GET(self):
        path = self.path.split("?")[0]
        if path == "/version":
            self.answer(200, {"major": "1", "minor": "36", "gitVersion": "v1.36.0"})
        elif path == "/openapi/v2":
            self.answer(200, OPENAPI, "application/octet-stream")
        elif path == "/api":
            self.answer(200, {"kind": "APIVersions", "versions": ["v1"]})
        elif path == "/apis":
            versions = [(name.split("/")[0], {"groupVersion": name, "version": name.split("/")[1]}) for name in GROUPS]
            groups = [{"name": name, "versions": [version], "preferredVersion": version} for name, version in versions]
            self.answer(200, {"kind": "APIGroupList", "apiVersion": "v1", "groups": groups})
        elif path == "/api/v1":
            self.answer(200, resources("v1", CORE))
        elif path.removeprefix("/apis/") in GROUPS:
            version = path.removeprefix("/apis/")
            self.answer(200, resources(version, GROUPS[version]))
        elif path in self.stored:
            self.answer(200, self.stored[path])
        elif (found := OBJECT.match(path)) and not found[1]:
            self.answer(200, {"kind": "List", "apiVersion": "v1", "metadata": {}, "items": []})
        else:
            self.missing()

    def write(self):
        found = json.loads(self.rfile.read(int(self.headers["content-length"])))
        path = self.path.split("?")[0]
        path = f"{path}/{found['metadata']['name']}" if self.command == "POST" else path
        before = self.stored.get(path, {}).get("metadata", {})
        found["metadata"]["uid"] = before.get("uid", str(uuid.uuid4()))
        self.stored[path] = found
        self.answer(200, found)

    do_POST = do_PATCH = do_PUT = write

    def do_DELETE(self):
        self.rfile.read(int(self.headers.get("content-length") or 0))
        if self.stored.pop(self.path.split("?")[0], None) is None:
            self.missing()
        else:
            self.answer(200, {"kind": "Status", "apiVersion": "v1", "status": "Success"})


def secrets():
    found = {path.removeprefix(SECRETS): value["data"] for path, value in Server.stored.items() if path.startswith(SECRETS)}
    return json.loads(json.dumps(found))


def changed(before):
    after = secrets()
    return {name for name in before.keys() | after.keys() if before.get(name) != after.get(name)}


def faults(folder, port):
    kubeconfig = {
        "apiVersion": "v1", "kind": "Config", "current-context": "mi",
        "clusters": [{"name": "mi", "cluster": {"server": f"http://127.0.0.1:{port}"}}],
        "contexts": [{"name": "mi", "context": {"cluster": "mi", "user": "mi", "namespace": "mi"}}],
        "users": [{"name": "mi", "user": {}}],
    }
    kubeconfig = json.dumps(kubeconfig)
    with helm.Config(namespace="mi", kubeconfig_content=kubeconfig, storage_driver="memory", qps=1000, burst_limit=1000) as config:
        config.install(folder, "mi", {})
        first = secrets()
        config.upgrade(folder, "mi", {"gateway": {"replicas": 3}})
        if lost := changed(first):
            yield f"an upgrade changes {sorted(lost)}"
        hosts = {"gateway": {"tls": {"hosts": ["mi.example"]}}}
        config.upgrade(folder, "mi", hosts)
        if changed(first) != {"mi-gateway-tls"} or secrets()["mi-gateway-tls"]["ca.crt"] != first["mi-gateway-tls"]["ca.crt"]:
            yield f"another host of the gateway changes {sorted(changed(first))}, or whom agents trust"
        kept = Server.stored.pop(f"{SECRETS}mi-keys")
        try:
            config.upgrade(folder, "mi", hosts)
            yield "an upgrade without its keys makes others"
        except helm.HelmError as error:
            if "mi-keys is gone" not in str(error):
                yield f"an upgrade without its keys: {error}"
        Server.stored[f"{SECRETS}mi-keys"] = kept
        config.uninstall("mi")
        left = {path.removeprefix(f"{NAMESPACE}/") for path in Server.stored if path.startswith(f"{NAMESPACE}/")}
        wanted = {f"secrets/mi-{name}" for name in ("gateway-tls-ca", "internal-ca", "keys", "postgres")}
        if left != wanted | {"configmaps/kube-root-ca.crt", "persistentvolumeclaims/mi-objects"}:
            yield f"a removal leaves {sorted(left)}"
        config.install(folder, "mi", {})
        if {"mi-keys", "mi-postgres", "mi-gateway-tls-ca"} & changed(first):
            yield f"installed again it has changed {sorted(changed(first))}"


server = ThreadingHTTPServer(("127.0.0.1", 0), Server)
threading.Thread(target=server.serve_forever, daemon=True).start()
try:
    json.dump(list(faults(sys.argv[1], server.server_port)), sys.stdout)
except helm.HelmError as error:
    json.dump([str(error)], sys.stdout)
