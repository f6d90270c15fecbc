"""Istio's control plane: the objects of its chart, and istiod as a Pod of the Deployment among them."""

import subprocess
from pathlib import Path

import yaml

from istio.kube import Kube
from istio.programs import ISTIOCTL
from lab.procs import Failed, wait_until

ROOT_NAMESPACE = "istio-system"
ZIPKIN = "zipkin"  # the tracing provider, and the Service of the same name
ZIPKIN_PORT = 9411
GENERATE_S = 60.0
CRD_S = 30
LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # the same, ten times as fast
WEBHOOK_S = 30.0
# Nobody runs these: no scheduler, no controllers.
IDLE = {"HorizontalPodAutoscaler", "PodDisruptionBudget"}
OPERATOR = {
    "apiVersion": "install.istio.io/v1alpha1",
    "kind": "IstioOperator",
    "spec": {
        "profile": "minimal",
        "meshConfig": {
            "accessLogFile": "/dev/stdout",
            "enableTracing": True,
            # Drains of 1 s rather than 45: old connections keep the old filters until then.
            "defaultConfig": {"drainDuration": "1s", "terminationDrainDuration": "1s",
                              "proxyMetadata": {"CLOUD_PLATFORM": "none"}},
            "extensionProviders": [{"name": ZIPKIN, "zipkin": {
                "service": f"{ZIPKIN}.{ROOT_NAMESPACE}.svc.cluster.local", "port": ZIPKIN_PORT}}],
            # Istio's own metrics are made by a filter that only Istio's build of Envoy has.
            "defaultProviders": {"metrics": []}},
        "values": {
            "defaultRevision": "default",  # without it the validating webhook looks at labelled objects only
            "pilot": {"env": {
                # Two more filters that only Istio's build of Envoy has.
                "PILOT_ENABLE_METADATA_EXCHANGE": "false", "PILOT_ENABLE_ALPN_FILTER": "false",
                "PILOT_DEBOUNCE_AFTER": "50ms"}}}}}


def objects(directory: Path) -> list[dict]:
    """What `istioctl install` would apply."""
    operator = directory / "operator.yaml"
    operator.write_text(yaml.safe_dump(OPERATOR))
    done = subprocess.run([ISTIOCTL.path, "manifest", "generate", f"--filename={operator}"], capture_output=True,
                          text=True, timeout=GENERATE_S)
    if done.returncode != 0:
        raise Failed(f"istioctl manifest generate: {done.stderr}")
    return [document for document in yaml.load_all(done.stdout, LOADER) if document]


def install(kube: Kube, directory: Path) -> dict:
    """Applies all but istiod itself; returns the manifest of istiod's Pod."""
    made = [document for document in objects(directory) if document["kind"] not in IDLE]
    crds = [document for document in made if document["kind"] == "CustomResourceDefinition"]
    kube.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": ROOT_NAMESPACE}}, *crds)
    kube.run("wait", "--for=condition=established", f"--timeout={CRD_S}s", "customresourcedefinitions", "--all")
    kube.apply(*(document for document in made if document["kind"] != "CustomResourceDefinition"))
    remote = kube.write_kubeconfig("istiod", kube.token(ROOT_NAMESPACE, "istiod")).read_text()
    certificate = Path(yaml.safe_load(remote)["clusters"][0]["cluster"]["certificate-authority"])
    # There is no token and no certificate of the API server in a Pod here: a Secret that the Deployment mounts.
    kube.apply({"apiVersion": "v1", "kind": "Secret",
                "metadata": {"name": "istio-kubeconfig", "namespace": ROOT_NAMESPACE},
                "stringData": {"config": remote.replace(str(certificate), "/var/run/secrets/remote/ca.crt"),
                               "ca.crt": certificate.read_text()}})
    deployment = next(document for document in made if document["kind"] == "Deployment")
    return pod_of(deployment, "istiod-0")


def pod_of(workload: dict, name: str) -> dict:
    """The Pod that a controller makes of a Deployment's or a StatefulSet's template."""
    template, meta = workload["spec"]["template"], workload["metadata"]
    claimed = [claim["metadata"]["name"] for claim in workload["spec"].get("volumeClaimTemplates", [])]
    claims = [{"name": claim, "persistentVolumeClaim": {"claimName": f"{claim}-{name}"}} for claim in claimed]
    spec = {**template["spec"], "nodeName": "node", "volumes": [*template["spec"].get("volumes", []), *claims]}
    owner = {"apiVersion": workload["apiVersion"], "kind": workload["kind"], "name": meta["name"],
             "uid": meta.get("uid", "0"), "controller": True}
    # generateName is what makes the injector look at the owner, whose name becomes the workload's.
    names = {"name": name, "generateName": f"{meta['name']}-", "namespace": meta["namespace"]}
    return {"apiVersion": "v1", "kind": "Pod", "spec": spec,
            "metadata": {**template["metadata"], **names, "ownerReferences": [owner]}}


def wait_webhooks(kube: Kube) -> None:
    """Waits until the API server can ask istiod to inject and to validate: istiod has put its certificate in."""
    def trusted() -> bool:
        found = [*kube.get("mutatingwebhookconfigurations"), *kube.get("validatingwebhookconfigurations")]
        return bool(found) and all(hook["clientConfig"].get("caBundle") for each in found for hook in each["webhooks"])
    wait_until(trusted, WEBHOOK_S, "webhooks have istiod's certificate")
