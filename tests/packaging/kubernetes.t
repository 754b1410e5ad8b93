#!/usr/bin/env python3
# Kubernetes: manifests and chart are valid, say the same, keep their promises, and run graftd; the canary's analysis judges
"""Wants the network (npm) and half a minute. kustomize is kubectl's; helm is tests/packaging/kubernetes/render.go."""
import base64
import copy
import json
import math
import os
import re
import shutil
import signal
import subprocess
import sys
HERE = os.path.dirname(os.path.abspath(__file__))
sys.dont_write_bytecode = True
sys.path[:0] = [HERE, os.path.join(HERE, "..", "integration", "lib")]
from grafttest import *  # noqa: E402,F403
import grafttest  # noqa: E402
from grafttest import Failed  # noqa: E402
from bare import Failure, run  # noqa: E402

try:
    import yaml
    import jsonschema
except ImportError:
    skip_all("wants python3-yaml and python3-jsonschema")
LACKING = [tool for tool in ("node", "npm", "go", "kubectl", "promtool") if shutil.which(tool) is None]
if LACKING:
    skip_all("wants " + ", ".join(LACKING))

KUBERNETES = os.path.join(SRCDIR, "packaging", "kubernetes")
CHART = os.path.join(KUBERNETES, "chart")
MODELS = ("kubernetes-models@5.1.0", "@kubernetes-models/argo-cd@4.0.0", "@kubernetes-models/argo-rollouts@2.0.0",
          "@kubernetes-models/prometheus-operator@6.0.0")
WORK = tempdir(0o755)
POD_USER = 999
# Members of these are names of people's own: no schema can know them.
OWN_NAMES = re.compile(r"(^|/)(labels|annotations|matchLabels|nodeSelector|requests|limits|data|binaryData|valuesObject)$")


def read(*path):
    with open(os.path.join(*path), encoding="utf-8") as file:
        return file.read()


def objects(text):
    found = [o for o in yaml.safe_load_all(text) if o]
    for binary in [o["binaryData"] for o in found if "binaryData" in o]:
        for name, encoded in binary.items():  # Kubernetes takes line ends in base64, the models do not
            binary[name] = encoded.replace("\n", "")
    return found


def named(found, kind, suffix=""):
    one, = [o for o in found if o["kind"] == kind and o["metadata"]["name"].endswith(suffix)]
    return one


# ---- What renders and validates ----

def kustomize(folder):
    return objects(run("kubectl", "kustomize", folder))


def old_kubectl():
    """Debian 12's has kustomize 2, in which the folders among `resources` are called `bases`."""
    version = json.loads(run("kubectl", "version", "--client", "-o", "json"))["clientVersion"]
    return int(re.match(r"\d+", version["minor"]).group()) < 21


def overlay():
    """packaging/kubernetes/plugins as its user has it: with the plugins beside it."""
    copied = os.path.join(WORK, "kubernetes")
    shutil.copytree(KUBERNETES, copied, dirs_exist_ok=True)
    for name in ("hello", "request-id"):
        shutil.copy(plugin_path(name), os.path.join(copied, "plugins", "configmap"))
    if old_kubectl():
        path = os.path.join(copied, "plugins", "kustomization.yaml")
        text = read(path).replace("\nresources:", "\nbases:")
        with open(path, "w", encoding="utf-8") as file:
            file.write(text)
    return os.path.join(copied, "plugins")


def build_renderer():
    program = os.path.join(WORK, "render")
    env = {**os.environ, "GO111MODULE": "off", "GOPATH": "/usr/share/gocode", "GOCACHE": os.path.join(WORK, "go"), "GOFLAGS": ""}
    run("go", "build", "-o", program, os.path.join(HERE, "kubernetes", "render.go"), env=env)
    return program


def render(values=None, chart=CHART, release="graft"):
    """(exit status, output, errors) of the renderer."""
    path = os.path.join(WORK, "values.yaml")
    with open(path, "w", encoding="utf-8") as file:
        json.dump(values or {}, file)
    done = subprocess.run([RENDERER, chart, release, "shop", path], capture_output=True, text=True, timeout=60)
    return done.returncode, done.stdout, done.stderr


def chart(values=None, release="graft"):
    status, out, errors = render(values, release=release)
    if status != 0:
        raise Failed(f"the chart does not render: {errors}")
    return objects(out)


def install_models():
    """Trusts whom this machine trusts; gives up where there is no registry."""
    folder = os.path.join(WORK, "npm")
    os.mkdir(folder)
    trusted = "/etc/ssl/certs/ca-certificates.crt"
    env = {**({"NODE_EXTRA_CA_CERTS": trusted} if os.path.exists(trusted) else {}), **os.environ}
    try:
        run("npm", "install", "--prefix", folder, "--no-package-lock", "--no-audit", "--no-fund", "--ignore-scripts",
            "--fetch-retries=1", "--fetch-retry-mintimeout=1000", "--fetch-timeout=30000", *MODELS, env=env, timeout=240)
    except (Failure, subprocess.TimeoutExpired) as error:
        diag(str(error))
        skip_all("wants npm's registry")
    return os.path.join(folder, "node_modules")


def faults(found):
    """A list for each object of what is wrong with it."""
    done = subprocess.run(["node", os.path.join(HERE, "kubernetes", "validate.mjs"), NODE_MODULES], input=json.dumps(found),
                          capture_output=True, text=True, timeout=300)
    if done.returncode != 0:
        raise Failed(done.stderr)
    return json.loads(done.stdout)


RENDERER = build_renderer()
NODE_MODULES = install_models()
APPLICATION = objects(read(KUBERNETES, "argo", "application.yaml"))
ALL_VALUES = {"rollout": {"enabled": True}, "serviceMonitor": {"enabled": True, "labels": {"team": "a"}},
              "plugins": {"configMap": "my-plugins"}, "env": [{"name": "GRAFT_LOG_LEVEL", "value": "debug"}],
              "drain": {"timeoutMs": 120500}, "imagePullSecrets": [{"name": "s"}], "podLabels": {"a": "b"},
              "podAnnotations": {"a": "b"}, "nodeSelector": {"a": "b"}, "tolerations": [{"key": "a", "operator": "Exists"}],
              "service": {"annotations": {"a": "b"}}, "image": {"tag": "1.2.3"},
              "networkPolicy": {"egress": [{"ports": [{"protocol": "UDP", "port": 53}]}]}}
RENDERED = {
    "kustomize base": kustomize(os.path.join(KUBERNETES, "base")),
    "kustomize plugins": kustomize(overlay()),
    "the chart": chart(),
    "the chart with everything": chart(ALL_VALUES, "live"),
    "the chart as Argo CD's Application has it": chart(APPLICATION[0]["spec"]["source"]["helm"]["valuesObject"]),
}


@case("every manifest is valid")
def _():
    for name, found in {**RENDERED, "the Application": APPLICATION}.items():
        wrong = {f"{o['kind']} {o['metadata']['name']}": why for o, why in zip(found, faults(found)) if why}
        is_(wrong, {}, f"{name}: {len(found)} objects")
    kinds = {o["kind"] for found in RENDERED.values() for o in found}
    is_(kinds, {"AnalysisTemplate", "ConfigMap", "Deployment", "HorizontalPodAutoscaler", "NetworkPolicy", "PodDisruptionBudget",
                "Rollout", "Service", "ServiceAccount", "ServiceMonitor"}, "all kinds are among them")
    is_([path for path in files_below(KUBERNETES) if path not in RENDERED_FILES], [], "no file was left out")


RENDERED_FILES = {"argo/application.yaml", "README.md"}


def files_below(folder):
    """But for what kustomizations and the chart use by themselves."""
    for at, _, names in os.walk(folder):
        below = os.path.relpath(at, folder)
        if below.startswith("chart"):
            continue
        listed = read(at, "kustomization.yaml") if "kustomization.yaml" in names else ""
        for name in names:
            if name != "kustomization.yaml" and f"- {name}\n" not in listed:
                yield os.path.normpath(os.path.join(below, name))


def members(value, at=()):
    if isinstance(value, dict):
        for key, inner in value.items():
            yield at + (key,)
            yield from members(inner, at + (key,))
    elif isinstance(value, list):
        for i, inner in enumerate(value):
            yield from members(inner, at + (i,))


def is_own(obj, path):
    """Whether the names below this member are people's own."""
    return OWN_NAMES.search("/".join(map(str, path))) or (obj["kind"], path) == ("Service", ("spec", "selector"))


def misspelt(obj, path):
    other = copy.deepcopy(obj)
    holder = other
    for key in path[:-1]:
        holder = holder[key]
    holder[path[-1] + "s"] = holder.pop(path[-1])
    return other


def replaced(obj, path, value):
    other = copy.deepcopy(obj)
    holder = other
    for key in path[:-1]:
        holder = holder[key]
    holder[path[-1]] = value
    return other


def schema_members(schema, at=()):
    """The paths of the values that a schema names."""
    for name, inner in schema.get("properties", {}).items():
        yield at + (name,)
        yield from schema_members(inner, at + (name,))


@case("a misspelt member of any of them would be found")
def _():
    found = RENDERED["kustomize base"] + RENDERED["the chart with everything"] + APPLICATION
    places = [(o, path) for o in found for path in members(o) if path[0] not in ("kind", "apiVersion")
              and not any(is_own(o, path[:i]) for i in range(1, len(path)))]
    missed = [f"{o['kind']} {'/'.join(map(str, path))}"
              for (o, path), why in zip(places, faults([misspelt(o, path) for o, path in places])) if not why]
    is_(missed, [], f"{len(places)} members, each misspelt once")


@case("what the renderer does not know ends it")
def _():
    for what, edit, why in (
            ("a function", lambda text: text + "{{ lookup \"v1\" \"Pod\" \"a\" \"b\" }}", 'function "lookup" not defined'),
            ("a misspelt value", lambda text: text.replace(".Values.pdb.", ".Values.pbd."), "pbd"),
            ("a hook", lambda text: text + "# helm.sh/hook: test\n", "hooks are not known")):
        copied = os.path.join(WORK, "bad-chart")
        shutil.rmtree(copied, ignore_errors=True)
        shutil.copytree(CHART, copied)
        path = os.path.join(copied, "templates", "pdb.yaml")
        text = edit(read(path))
        with open(path, "w", encoding="utf-8") as file:
            file.write(text)
        status, _, errors = render(chart=copied)
        ok(status == 1 and why in errors, f"{what}: refused", errors)
    status, _, errors = render({"replicas": 3})
    ok(status == 1 and "values.yaml has no replicas" in errors, "a value that the chart does not have", errors)


@case("the chart's schema, which helm holds values against, takes what is right and nothing else")
def _():
    """Each value of values.yaml, and what stands for it, is known by its name and its type."""
    schema = jsonschema.Draft7Validator(json.loads(read(CHART, "values.schema.json")))
    schema.check_schema(schema.schema)
    values = yaml.safe_load(read(CHART, "values.yaml"))

    def wrong(given):
        return [error.message for error in schema.iter_errors(given)]

    for name, given in (("values.yaml", values), ("every value set", ALL_VALUES),
                        ("the Application's", APPLICATION[0]["spec"]["source"]["helm"]["valuesObject"])):
        is_(wrong(given), [], f"{name}: taken")
    free = ("config", "resources/requests", "resources/limits", "rollout/steps")  # members are Kubernetes's or people's own
    places = [path for path in members(values) if not "/".join(map(str, path)).startswith(tuple(at + "/" for at in free))]
    is_(["/".join(path) for path in places if not wrong(misspelt(values, path))], [],
        f"{len(places)} values, each misspelt once: refused")
    is_(["/".join(path) for path in places if not wrong(replaced(values, path, [[]]))], [], "each of a wrong type: refused")
    known = set(schema_members(schema.schema))
    is_(sorted("/".join(path) for path in known - set(places) - {("global",), ("enabled",)}), [], "it names no other")
    for path, value in (("service/port", 0), ("service/port", 70000), ("drain/timeoutMs", "30s"), ("stageSize", "128 MB"),
                        ("rollout/analysis/maxErrorRate", 2), ("rollout/analysis/prometheus", "prometheus:9090"),
                        ("image/pullPolicy", "always"), ("plugins/configMap", "My_Plugins"), ("podLabels", {"a": 1}),
                        ("pdb/maxUnavailable", "one"), ("autoscaling/minReplicas", 0)):
        isnt(wrong(replaced(values, path.split("/"), value)), [], f"{path}: {value} is refused")


# ---- What they promise ----

def workload(found):
    one, = [o for o in found if o["kind"] in ("Deployment", "Rollout")]
    return one


def pod_of(found):
    return workload(found)["spec"]["template"]["spec"]


def environment(found):
    container, = pod_of(found)["containers"]
    env = {e["name"]: e["value"] for e in container.get("env", [])}
    for source in container.get("envFrom", []):
        env.update(named(found, "ConfigMap", source["configMapRef"]["name"])["data"])
    return env


def selects(selector, labels):
    return bool(selector) and all(labels.get(key) == value for key, value in selector.items())


def not_restricted(pod):
    """What the Pod Security Standard "restricted" forbids or lacks here."""
    wrong = [key for key in ("hostNetwork", "hostPID", "hostIPC") if pod.get(key)]
    own = pod.get("securityContext", {})
    allowed = {"configMap", "csi", "downwardAPI", "emptyDir", "ephemeral", "persistentVolumeClaim", "projected", "secret"}
    wrong += [f"volume {v['name']}" for v in pod.get("volumes", []) if not set(v) - {"name"} <= allowed]
    for container in pod["containers"] + pod.get("initContainers", []):
        context = {**own, **container.get("securityContext", {})}
        if context.get("privileged") or context.get("allowPrivilegeEscalation") is not False:
            wrong.append("allowPrivilegeEscalation")
        if context.get("runAsNonRoot") is not True or context.get("runAsUser") == 0:
            wrong.append("runAsNonRoot")
        if context.get("seccompProfile", {}).get("type") not in ("RuntimeDefault", "Localhost"):
            wrong.append("seccompProfile")
        capabilities = context.get("capabilities", {})
        if capabilities.get("drop") != ["ALL"] or set(capabilities.get("add", [])) - {"NET_BIND_SERVICE"}:
            wrong.append("capabilities")
        if any("hostPort" in port for port in container.get("ports", [])):
            wrong.append("hostPort")
    return wrong


@case("an update never has fewer pods, and each pod has time to drain")
def _():
    for name, found in RENDERED.items():
        top, pod, env = workload(found), pod_of(found), environment(found)
        container, = pod["containers"]
        strategy = top["spec"]["strategy"]
        strategy = strategy["canary"] if top["kind"] == "Rollout" else strategy["rollingUpdate"]
        is_((strategy["maxSurge"], strategy["maxUnavailable"]), (1, 0), f"{name}: one more, never one less")
        ok("replicas" not in top["spec"], f"{name}: the HPA alone says how many")
        delay, timeout = int(env["GRAFT_DRAIN_DELAY_MS"]), int(env["GRAFT_DRAIN_TIMEOUT_MS"])
        is_(pod["terminationGracePeriodSeconds"], math.ceil(timeout / 1000) + 10, f"{name}: ten seconds more than the drain")
        ok("lifecycle" not in container, f"{name}: no preStop")
        ready = container["readinessProbe"]
        ok(delay > 2000 * ready["periodSeconds"] * ready["failureThreshold"] and timeout > delay,
           f"{name}: drain.delay_ms is well above the time in which readiness is seen", (delay, timeout, ready))
        is_({probe: container[probe]["httpGet"]["path"] for probe in ("startupProbe", "readinessProbe", "livenessProbe")},
            {"startupProbe": "/startupz", "readinessProbe": "/readyz", "livenessProbe": "/livez"}, f"{name}: three probes")
        is_(not_restricted(pod), [], f"{name}: restricted")
        is_(pod["enableServiceLinks"], False, f"{name}: a Service's name is no setting")
        is_((container["securityContext"]["readOnlyRootFilesystem"], pod["automountServiceAccountToken"]), (True, False),
            f"{name}: nothing to write to but its volumes, no token")


@case("what refers to another object finds it")
def _():
    for name, found in RENDERED.items():
        top, pod = workload(found), pod_of(found)
        container, = pod["containers"]
        labels = top["spec"]["template"]["metadata"]["labels"]
        ports = {p["name"] for p in container["ports"]}
        ok(selects(top["spec"]["selector"]["matchLabels"], labels), f"{name}: the {top['kind']} its pods")
        for service in [o for o in found if o["kind"] == "Service"]:
            ok(selects(service["spec"]["selector"], labels) and {p["targetPort"] for p in service["spec"]["ports"]} <= ports,
               f"{name}: {service['metadata']['name']} the pods and their port")
        target = named(found, "HorizontalPodAutoscaler")["spec"]["scaleTargetRef"]
        is_(target, {key: top.get(key, top["metadata"].get(key)) for key in ("apiVersion", "kind", "name")}, f"{name}: the HPA")
        for kind, path in (("PodDisruptionBudget", ("selector", "matchLabels")), ("NetworkPolicy", ("podSelector", "matchLabels"))):
            selector = named(found, kind)["spec"]
            for key in path:
                selector = selector[key]
            ok(selects(selector, labels), f"{name}: the {kind}")
        used = [p["port"] for rule in named(found, "NetworkPolicy")["spec"]["ingress"] for p in rule["ports"]]
        is_(set(used), ports, f"{name}: the NetworkPolicy's ports")
        is_(named(found, "ServiceAccount")["metadata"]["name"], pod["serviceAccountName"], f"{name}: the ServiceAccount")
        volumes = {v["name"]: v for v in pod["volumes"]}
        is_({m["name"] for m in container["volumeMounts"]}, set(volumes), f"{name}: every volume is mounted")
        maps = {o["metadata"]["name"] for o in found if o["kind"] == "ConfigMap"}
        lost = [v["configMap"]["name"] for v in volumes.values() if "configMap" in v and not v["configMap"].get("optional")]
        is_([m for m in lost if m not in maps | {"my-plugins"}], [], f"{name}: the ConfigMaps")
        for monitor in [o for o in found if o["kind"] == "ServiceMonitor"]:
            services = [o for o in found if o["kind"] == "Service"
                        and selects(monitor["spec"]["selector"]["matchLabels"], o["metadata"]["labels"])]
            is_([[p["name"] for p in s["spec"]["ports"]] for s in services], [[e["port"] for e in monitor["spec"]["endpoints"]]],
                f"{name}: the ServiceMonitor its one Service")


@case("chart and kustomization say the same, and are of this version")
def _():
    one, other = copy.deepcopy(RENDERED["kustomize base"]), copy.deepcopy(RENDERED["the chart"])
    version = re.search(r"AC_INIT\(\[graft\], \[([^]]+)\]", read(SRCDIR, "configure.ac")).group(1)
    image = pod_of(one)["containers"][0]["image"]
    is_((image, pod_of(other)["containers"][0]["image"]), (f"graft:{version}",) * 2, "the image is of configure.ac's version")
    is_(environment(one), environment(other), "the same environment")
    configs = [json.loads(named(found, "ConfigMap", named_config(found))["data"]["graft.json"]) for found in (one, other)]
    is_(configs[0], configs[1], "the same graft.json")
    pods = [pod_of(one), pod_of(other)]
    for pod in pods:
        for key in ("env", "envFrom", "imagePullPolicy"):
            pod["containers"][0].pop(key, None)
        for spread in pod["topologySpreadConstraints"]:
            spread["labelSelector"]["matchLabels"].pop("app.kubernetes.io/instance", None)
        # The kustomization always has the volume of plugins, the chart only where there is a ConfigMap.
        pod["volumes"] = [v for v in pod["volumes"] if v["name"] not in ("plugins", "config")]
        pod["containers"][0]["volumeMounts"] = [m for m in pod["containers"][0]["volumeMounts"] if m["name"] != "plugins"]
    is_(pods[0], pods[1], "the same pod")
    for kind in ("HorizontalPodAutoscaler", "PodDisruptionBudget", "NetworkPolicy"):
        text = [json.dumps(named(found, kind)["spec"], sort_keys=True) for found in (one, other)]
        is_(text[0], re.sub(r'"app.kubernetes.io/instance": "graft", ', "", text[1]), f"the same {kind}")


def named_config(found):
    one, = [v["configMap"]["name"] for v in pod_of(found)["volumes"] if v["name"] == "config"]
    return one


# ---- graftd in such a pod ----

# The container's securityContext: a root file system that is read-only, user and group 999, no capability and
# no way to get one. What replaces this script is graftd itself, so its process is the one that was started.
CONTAINER = r"""#!/bin/sh
exec unshare -m sh -c 'mount --bind "$0" "$0" && mount -o remount,ro,bind / &&
    exec setpriv --reuid=999 --regid=999 --clear-groups --no-new-privs --inh-caps=-all --bounding-set=-all "$@"' \
    "%s" "%s" "$@"
"""


def contained(s, writable):
    """The program for s.start(): graftd in such a container; as it is, where this test may not make one."""
    if not OTHERS:
        return GRAFTD
    path = os.path.join(s.dir, "container")
    with open(path, "w", encoding="utf-8") as file:
        file.write(CONTAINER % (writable, GRAFTD))
    os.chmod(path, 0o755)
    return path


def chown(path, mode):
    if OTHERS:
        os.chown(path, 0, POD_USER)
    os.chmod(path, mode)


def in_pod(found):
    """graftd with the pod's environment, user and volumes; what is mounted at /x is a folder of the test's."""
    container, = pod_of(found)["containers"]
    s = Server({}, start=False, dir=tempdir(0o755))
    mounts = {}
    maps = {o["metadata"]["name"]: o for o in found if o["kind"] == "ConfigMap"}
    sources = {v["name"]: v for v in pod_of(found)["volumes"]}
    for mount in container["volumeMounts"]:
        folder = mounts[mount["mountPath"]] = os.path.join(s.dir, "mounts", mount["name"])
        os.makedirs(folder)
        chown(folder, 0o2777)
        if "configMap" in sources[mount["name"]]:
            fill(folder, maps.get(sources[mount["name"]]["configMap"]["name"], {}))
    s.env = {name: mapped(value, mounts) for name, value in environment(found).items()}
    s.config_path = os.path.join(mounts["/etc/graft"], "graft.json")
    s.control, s.stage_dir = s.env["GRAFT_CONTROL"], s.env["GRAFT_STAGE_DIR"]
    before = grafttest.GRAFTD
    grafttest.GRAFTD = contained(s, os.path.join(s.dir, "mounts"))
    try:
        return s.start()
    finally:
        grafttest.GRAFTD = before


def fill(folder, config_map):
    data = {name: text.encode() for name, text in config_map.get("data", {}).items()}
    data.update({name: base64.b64decode(text) for name, text in config_map.get("binaryData", {}).items()})
    for name, content in data.items():
        with open(os.path.join(folder, name), "wb") as file:
            file.write(content)
        chown(file.name, 0o644)


def mapped(value, mounts):
    if re.fullmatch(r":\d+", value):
        return "127.0.0.1:0"  # its own network there, a free port here
    for path, folder in mounts.items():
        if value == path or value.startswith(path + "/"):
            return folder + value[len(path):]
    ok(not value.startswith("/"), "a path in the environment is in a volume", value)
    return value


@case("graftd runs in such a pod, and the probes ask what it answers")
def _():
    for name in ("kustomize base", "kustomize plugins", "the chart"):
        found = RENDERED[name]
        s = in_pod(found)
        container, = pod_of(found)["containers"]
        for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
            is_(s.ops_get(container[probe]["httpGet"]["path"]).status, 200, f"{name}: {probe}")
        is_(s.get("/hello").text, "hello, world\n", f"{name}: it serves")
        isnt(s.get("/hello").header("X-Request-Id"), None, f"{name}: with the middleware of its graft.json")
        if OTHERS:
            status = read(f"/proc/{s.pid}", "status")
            is_([re.search(rf"^{key}:\s+(\S+)", status, re.M).group(1) for key in ("Uid", "Gid", "CapEff", "CapBnd", "NoNewPrivs")],
                [str(POD_USER), str(POD_USER), "0" * 16, "0" * 16, "1"], f"{name}: with no rights")
            root, = [line for line in read(f"/proc/{s.pid}", "mounts").splitlines() if line.split()[1] == "/"][-1:]
            ok(root.split()[3].startswith("ro"), f"{name}: on a root file system that is read-only", root)
        known = read(SRCDIR, "docs", "graft.json.5") + read(SRCDIR, "docs", "graftd.8")
        is_([key for key in s.env if key not in known], [], f"{name}: every variable is a setting")
        done = subprocess.run([GRAFTCTL, "status"], env={**os.environ, **s.env}, capture_output=True, text=True)
        is_(done.returncode, 0, f"{name}: graftctl finds it")
        if name == "kustomize plugins":
            is_({v["plugin"] for v in s.ps()}, {"hello", "request-id"}, f"{name}: with the ConfigMap's plugins")
            ok(s.find_events("watch") == [], f"{name}: it watches", s.tail())
        s.send_signal(signal.SIGTERM)
        wait_for(lambda: s.ops_get("/readyz").status == 503, 5, "/readyz")
        is_(s.get("/hello").status, 200, f"{name}: TERM: not ready, but it serves for drain.delay_ms")
        is_(s.wait_exit(pod_of(found)["terminationGracePeriodSeconds"]), 0, f"{name}: it drains within the grace period")


# ---- The canary's analysis ----

SHOP = r"""
#include <graft/graft.h>
static graft_next good(graft_req *req, void *state) { (void)state; return graft_text(req, 200, "ok\n"); }
static graft_next bad(graft_req *req, void *state) { (void)state; return graft_text(req, 500, "no\n"); }
static void later(graft_req *req, void *arg) { (void)arg; graft_text(req, 200, "late\n"); graft_done(req); }
static graft_next slow(graft_req *req, void *state)
{
    (void)state;
    return graft_after(req, 300, later, NULL) == 0 ? GRAFT_LATER : GRAFT_ERROR;
}
static graft_next sin(graft_req *req, void *state) { graft_done(req); return good(req, state); }
GRAFT_PLUGIN(
    .name = "shop", .version = VERSION, .summary = "Serves, fails, dawdles.",
    .routes = (const graft_route[]){ { "GET", "/good", good, 0 }, { "GET", "/bad", bad, 0 }, { "GET", "/slow", slow, 0 },
                                     { "GET", "/sin", sin, 0 }, { 0 } },
)
"""
TARGET_LABELS = {"namespace", "rollouts_pod_template_hash"}  # Prometheus's, from the ServiceMonitor
METRICS = {m["name"]: m for m in named(RENDERED["the chart with everything"], "AnalysisTemplate")["spec"]["metrics"]}


def scraped(version, **requests):
    """/metrics of a server of that shop after these requests."""
    s = Server({"shop": compile_plugin(SHOP, f'-DVERSION="{version}"'), "hello": "hello"})
    with s.connect() as conn:
        for path, n in requests.items():
            for _ in range(n):
                conn.get("/" + path)
        for _ in range(20):
            conn.get("/hello")
    wait_for(lambda: s.status()["in_flight"] == 0, 10, "the last request's end")
    text = s.ops_get("/metrics").text
    s.stop()
    return text


def series(text):
    """[(name, labels, value, type)] of Prometheus text."""
    types = dict(re.findall(r"^# TYPE (\S+) (\S+)$", text, re.M))
    out = []
    for name, labels, value in re.findall(r"^(\w+)(?:\{(.*)\})? (\S+)$", text, re.M):
        kind = types.get(name) or types.get(re.sub(r"_(bucket|sum|count)$", "", name))
        out.append((name, dict(re.findall(r'(\w+)="((?:[^"\\]|\\.)*)"', labels or "")), float(value), kind))
    return out


def query_of(metric):
    return metric["provider"]["prometheus"]["query"].replace("{{args.canary}}", "c1").replace("{{args.stable}}", "s1")


@case("the analysis asks for metrics and labels that a running graftd has")
def _():
    have = {}
    for name, labels, _, _ in series(scraped("1.0.0", good=20, bad=1)):
        for label, value in {**labels, "": ""}.items():
            have.setdefault(name, {}).setdefault(label, set()).add(value)
    is_(set(METRICS), {"errors", "p99", "sound"}, "what is asked for")
    for metric in METRICS.values():
        query = query_of(metric)
        asked = re.findall(r"(\w+)\{([^}]*)\}", query)
        is_(sorted(re.findall(r"\bgraft_\w+", query)), sorted(name for name, _ in asked), f"{metric['name']}: of certain pods each")
        for name, matchers in asked:
            ok(name in have, f"{metric['name']}: {name}", sorted(have))
            for label, value in re.findall(r'(\w+)\s*[=!]~?"([^"]*)"', matchers):
                if label not in TARGET_LABELS:
                    ok(set(value.split("|")) <= have[name].get(label, set()), f"{name} has {label} {value}", have[name])
            ok(TARGET_LABELS <= set(re.findall(r"(\w+)\s*=", matchers)), f"{name}: of one namespace and one ReplicaSet")
        grouped = {label.strip() for by in re.findall(r"(?:by|on) \(([^)]*)\)", query) for label in by.split(",")}
        is_([label for label in grouped for name, _ in asked if label not in have[name]], [], f"{metric['name']}: {sorted(grouped)}")
    monitor = named(RENDERED["the chart with everything"], "ServiceMonitor")
    is_([label.replace("-", "_") for label in monitor["spec"]["podTargetLabels"]], ["rollouts_pod_template_hash"],
        "Prometheus has the pods' label")


def promtool(tests):
    """What `promtool test rules` says: exit status and output."""
    path = os.path.join(WORK, "promtest.yaml")
    with open(path, "w", encoding="utf-8") as file:
        json.dump({"evaluation_interval": "15s", "tests": tests}, file)
    done = subprocess.run(["promtool", "test", "rules", path], capture_output=True, text=True, timeout=120)
    return done.returncode, done.stdout + done.stderr


def as_input(text, pods):
    """These figures as what Prometheus has of such pods: counters that rise to them within five minutes."""
    out = []
    for name, labels, value, kind in series(text):
        labels = {**labels, "namespace": "shop", "rollouts_pod_template_hash": pods}
        told = ",".join(f'{key}="{text}"' for key, text in labels.items())
        values = f"{value}x20" if kind == "gauge" else f"0+{value / 20}x20"
        out.append({"series": f"{name}{{{told}}}", "values": values})
    return out


def verdict(metric, have, expected, name):
    """Whether the conditions hold, asked of Prometheus itself: the first, the second, or neither."""
    for condition in ("successCondition", "failureCondition"):
        told = re.fullmatch(r"len\(result\) > 0 && result\[0\] (<=|>|==) ([\d.]+)", metric[condition])
        ok(told, f"{condition} is one that this test can ask", metric[condition])
        holds = [{"labels": "{}", "value": 1}] if condition == expected else []
        test = {"interval": "15s", "input_series": have, "promql_expr_test": [
            {"expr": f"count(({query_of(metric)}) {told.group(1)} {told.group(2)})", "eval_time": "5m", "exp_samples": holds}]}
        status, said = promtool([test])
        ok(status == 0, f"{name}: {metric['name']}: {condition} {'holds' if holds else 'does not hold'}", said)


@case("the analysis lets a good canary pass, and none that fails, dawdles or sins")
def _():
    stable = scraped("1.0.0", good=400)
    same = as_input(stable, "s1")
    for what, requests, blamed in (("it fails", {"good": 380, "bad": 20}, "errors"), ("it is slow", {"good": 380, "slow": 20}, "p99"),
                                   ("it breaks the contract", {"good": 400, "sin": 1}, "sound")):
        have = same + as_input(scraped("2.0.0", **requests), "c1")
        verdict(METRICS[blamed], have, "failureCondition", what)
    for metric in METRICS.values():
        verdict(metric, same + as_input(stable.replace('version="1.0.0"', 'version="2.0.0"'), "c1"), "successCondition", "as good")
        verdict(metric, same, None, "nothing is known of it")
    verdict(METRICS["errors"], same + as_input(re.sub(r"(?m)^(graft_(?:requests|errors)_total\{.*\}) \S+$", r"\1 0", stable), "c1"),
            None, "nobody asks it")


@case("the canary's steps and the analysis belong together")
def _():
    rollout = workload(RENDERED["the chart with everything"])["spec"]["strategy"]["canary"]
    template = named(RENDERED["the chart with everything"], "AnalysisTemplate")
    is_([t["templateName"] for t in rollout["analysis"]["templates"]], [template["metadata"]["name"]], "the template")
    is_({a["name"]: a["valueFrom"]["podTemplateHashValue"] for a in rollout["analysis"]["args"]},
        {"canary": "Latest", "stable": "Stable"}, "its arguments")
    is_([a["name"] for a in template["spec"]["args"]], ["canary", "stable"], "are those that it takes")
    for metric in METRICS.values():
        is_(set(re.findall(r"\{\{args\.(\w+)\}\}", metric["provider"]["prometheus"]["query"])) - {"canary", "stable"}, set(),
            f"{metric['name']}: and uses")


main()
