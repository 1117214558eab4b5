"""The parts of `check` that want a language."""

import json
import os
import pathlib
import re
import subprocess
import sys
import zipfile

# Of the PodMonitor what is used here (monitoring.coreos.com/v1), nothing else allowed.
POD_MONITOR = {
    "type": "object",
    "required": ["apiVersion", "kind", "metadata", "spec"],
    "additionalProperties": False,
    "properties": {
        "apiVersion": {"const": "monitoring.coreos.com/v1"},
        "kind": {"const": "PodMonitor"},
        "metadata": {"type": "object", "required": ["name"]},
        "spec": {
            "type": "object",
            "required": ["selector", "podMetricsEndpoints"],
            "additionalProperties": False,
            "properties": {
                "selector": {
                    "type": "object",
                    "additionalProperties": False,
                    "required": ["matchLabels"],
                    "properties": {"matchLabels": {"additionalProperties": {"type": "string"}}},
                },
                "podMetricsEndpoints": {
                    "type": "array",
                    "minItems": 1,
                    "items": {
                        "type": "object",
                        "additionalProperties": False,
                        "required": ["port"],
                        "properties": {
                            "port": {"type": "string"},
                            "path": {"type": "string", "pattern": "^/"},
                            "interval": {"type": "string", "pattern": "^[0-9]+(ms|s|m|h)$"},
                            "scrapeTimeout": {"type": "string", "pattern": "^[0-9]+(ms|s|m|h)$"},
                        },
                    },
                },
            },
        },
    },
}


def unpack(wheels, folder, release):
    """Wheels into a folder, with the schemas of one release alone."""
    for wheel in pathlib.Path(wheels).glob("*.whl"):
        with zipfile.ZipFile(wheel) as archive:
            names = archive.namelist()
            archive.extractall(folder, [name for name in names if "json-schema/" not in name
                                        or f"/{release}-local" in name])
    return []


def expressions(dashboard):
    """Rules for promtool out of a dashboard's queries, on standard output."""
    dashboard = json.loads(pathlib.Path(dashboard).read_text())
    targets = [target for panel in dashboard["panels"] for target in panel.get("targets", [])]
    queries = [target["expr"].replace("$__rate_interval", "5m") for target in targets]
    queries += [annotation["expr"] for annotation in dashboard["annotations"]["list"]]
    rules = [{"record": f"panel:{at}", "expr": query} for at, query in enumerate(queries)]
    # JSON is YAML.
    json.dump({"groups": [{"name": "dashboard", "rules": rules}]}, sys.stdout)
    return [] if len(rules) > 20 else [f"{len(rules)} queries are no dashboard"]


def manifests(folder):
    """Every manifest against its schema, and against what it refers to."""
    import jsonschema
    import kubernetes_validate
    import yaml

    problems, resources = [], []
    for path in sorted(pathlib.Path(folder).rglob("*.yaml")):
        for resource in yaml.safe_load_all(path.read_text()):
            if resource["kind"] == "Kustomization":
                files = resource["resources"]
                for generator in resource.get("configMapGenerator", []):
                    files += generator["files"]
                    resources.append((path, {"kind": "ConfigMap", "metadata": generator}))
                missing = [name for name in files if not (path.parent / name).exists()]
                problems += [f"{path}: {name} is not there" for name in missing]
                continue
            resources.append((path, resource))
            try:
                if resource["kind"] == "PodMonitor":
                    jsonschema.validate(resource, POD_MONITOR)
                else:
                    kubernetes_validate.validate(resource, "1.37", strict=True)
            except Exception as error:
                problems.append(f"{path}: {resource['kind']}: {getattr(error, 'message', error)}")

    # What commands make: secrets.sh, and those in the comments of kustomization.yaml and nodes.yaml.
    commands = "".join(path.read_text() for path in pathlib.Path(folder).rglob("*") if path.is_file())
    made = set(re.findall(r"create (?:secret generic|configmap) ([a-z-]+)", commands))
    made |= {res["metadata"]["name"] for _, res in resources if res["kind"] == "ConfigMap"}
    claims = {res["metadata"]["name"] for _, res in resources if res["kind"] == "PersistentVolumeClaim"}
    for path, resource in resources:
        pod = resource.get("spec", {}).get("template", {}).get("spec")
        if resource["kind"] == "Pod":
            pod = resource["spec"]
        if pod:
            problems += [f"{path}: {problem}" for problem in pod_problems(pod, made, claims)]
    print(f"manifests: {len(resources)} resources judged")
    return problems


def pod_problems(pod, made, claims):
    volumes = {}
    for volume in pod.get("volumes", []):
        volumes[volume["name"]] = volume
        for kind, key in [("configMap", "name"), ("secret", "secretName")]:
            if kind in volume and volume[kind][key] not in made:
                yield f"nothing makes the {kind} {volume[kind][key]}"
        claim = volume.get("persistentVolumeClaim", {}).get("claimName")
        if claim and claim not in claims:
            yield f"there is no claim {claim}"
    mounted = set()
    for container in pod.get("initContainers", []) + pod["containers"]:
        name = container["name"]
        mounts = container.get("volumeMounts", [])
        mounted |= {mount["name"] for mount in mounts}
        yield from (f"{name}: no volume {m['name']}" for m in mounts if m["name"] not in volumes)
        # A file that is mounted alone is never renewed.
        yield from (f"{name}: {m['name']} has a subPath" for m in mounts if "subPath" in m)
        security = container.get("securityContext", {})
        if security.get("allowPrivilegeEscalation") is not False:
            yield f"{name}: may take privileges"
        if security.get("capabilities", {}).get("drop") != ["ALL"]:
            yield f"{name}: keeps capabilities"
        if security.get("readOnlyRootFilesystem") is not True:
            yield f"{name}: may write its image"
        resources = container["resources"]
        rings = container["image"] == "ringgate"
        if rings and resources["requests"] != resources["limits"]:
            yield f"{name}: requests are not limits: no CPUs of its own"
        if rings and not str(resources["limits"]["cpu"]).isdigit():
            yield f"{name}: {resources['limits']['cpu']} is no whole number of CPUs"
        profile = security.get("seccompProfile") or pod.get("securityContext", {}).get("seccompProfile")
        if rings and profile != {"type": "Localhost", "localhostProfile": "ringgate.json"}:
            yield f"{name}: its seccomp profile refuses io_uring"
        # Drains are at most 30 s in the configurations here.
        sleep = container.get("lifecycle", {}).get("preStop", {}).get("sleep", {}).get("seconds", 0)
        if sleep and pod.get("terminationGracePeriodSeconds", 30) <= sleep:
            yield f"{name}: is killed before its preStop is over"
    yield from (f"nobody mounts {name}" for name in volumes if name not in mounted)


def configurations(ringgate, pki, *files):
    """Each configuration with files where it expects them, judged by `ringgate check`."""
    problems, pki = [], pathlib.Path(pki)
    given = {"server.pem": "server.pem", "server.key": "server.key", "client-ca.pem": "clients-ca.pem"}
    for number, file in enumerate(files):
        root = pki.parent / f"configuration-{number}"
        text = pathlib.Path(file).read_text()
        for name in re.findall(r'^[^#\n]*"([^"\n]*\.(?:pem|key))"', text, re.MULTILINE):
            path = root / name.lstrip("/")
            path.parent.mkdir(parents=True, exist_ok=True)
            source = [from_ for from_, to in given.items() if to == path.name]
            if path.name == "stek.key":
                subprocess.run([ringgate, "stek", "new", path], check=True, stdout=subprocess.DEVNULL)
            elif source:
                path.write_bytes((pki / source[0]).read_bytes())
                path.chmod(0o600)
            else:
                problems.append(f"{file}: {name} comes from nowhere")
        (root / "ringgate.toml").write_text(text.replace('"/etc/', f'"{root}/etc/'))
        checked = subprocess.run([ringgate, "check", "-c", root / "ringgate.toml"],
                                 capture_output=True, text=True, timeout=30)
        if checked.returncode != 0:
            problems.append(f"{file}: {checked.stdout}{checked.stderr}")
        else:
            print(f"{file}: {checked.stdout.splitlines()[0]}")
    return problems


def under(profile, *command):
    """Becomes the command, under the seccomp profile."""
    import seccomp

    profile = json.loads(pathlib.Path(profile).read_text())
    compared = {"SCMP_CMP_EQ": seccomp.EQ, "SCMP_CMP_MASKED_EQ": seccomp.MASKED_EQ}
    chosen = {"SCMP_ACT_ALLOW": lambda rule: seccomp.ALLOW,
              "SCMP_ACT_ERRNO": lambda rule: seccomp.ERRNO(rule["errnoRet"])}
    filter_ = seccomp.SyscallFilter(defaction=seccomp.ERRNO(profile["defaultErrnoRet"]))
    for rule in profile["syscalls"]:
        arguments = [seccomp.Arg(it["index"], compared[it["op"]], it["value"], it.get("valueTwo", 0))
                     for it in rule.get("args", [])]
        for name in rule["names"]:
            filter_.add_rule(chosen[rule["action"]](rule), name, *arguments)
    filter_.load()
    # The profile is there, and is no bag of everything.
    try:
        os.chroot("/")
        return ["chroot is allowed"]
    except PermissionError:
        os.execv(command[0], command)


if __name__ == "__main__":
    run = {"unpack": unpack, "expressions": expressions, "manifests": manifests,
           "configurations": configurations, "under": under}[sys.argv[1]]
    sys.exit("\n".join(run(*sys.argv[2:])) or 0)
