"""cluster.yaml, kuberay/, slurm/, skypilot/, runtime_env.yaml against what will read them."""

import io
import re
import subprocess
import tomllib
import zipfile

import kubernetes_validate
import pytest
import yaml
from conftest import ROOT
from host_cluster import KEEPALIVE

from psr_ray.cluster.capacity import NodeKind, check_capacity, demands_of
from psr_ray.config.file import load_config
from psr_ray.errors import PsrError

MAX_UPLOAD = 5 * 2**20


def cluster():
    from ray.autoscaler._private.util import prepare_config, validate_config

    config = prepare_config(yaml.safe_load((ROOT / "cluster.yaml").read_text()))
    validate_config(config)
    return config


def kinds():
    types = cluster()["available_node_types"]
    return [NodeKind(name, dict(t["resources"]), t["max_workers"]) for name, t in types.items()]


def test_cluster_file_is_valid_for_ray_and_keeps_its_promises():
    config = cluster()
    types = config["available_node_types"]
    assert types[config["head_node_type"]]["resources"] == {"CPU": 0, "GPU": 0}
    workers = {name: t for name, t in types.items() if name != config["head_node_type"]}
    assert {t["min_workers"] for t in workers.values()} == {0}
    for name in ("gpu_7b", "gpu_72b"):
        spot, demand = workers[f"{name}_spot"], workers[name]
        assert spot["priority"] > demand["priority"]
        assert spot["node_config"]["InstanceMarketOptions"] == {"MarketType": "spot"}
        assert "InstanceMarketOptions" not in demand["node_config"]
        assert spot["node_config"]["InstanceType"] == demand["node_config"]["InstanceType"]
    head = types[config["head_node_type"]]
    assert head["node_config"]["IamInstanceProfile"] == {"Name": "psr-ray-head"}
    for kind in workers.values():
        assert kind["node_config"]["IamInstanceProfile"] == {"Name": "psr-ray-worker"}
    starts = config["head_start_ray_commands"] + config["worker_start_ray_commands"]
    assert "RAY_AUTH_MODE=token" in config["setup_commands"][-1]
    assert any("--dashboard-host=127.0.0.1" in start for start in starts)


def test_the_image_has_the_locks_and_this_checkout():
    import ray

    text = (ROOT / "Dockerfile").read_text()
    assert f"FROM rayproject/ray:{ray.__version__}-py311-gpu\n" in text
    for lock in ("gpu.lock", "deepspeed.lock"):
        assert f"--require-hashes -r requirements/{lock}" in text
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    for file in ("Dockerfile", "cluster.yaml", "kuberay/rayjob.yaml"):
        assert f"psr-ray:{version}" in (ROOT / file).read_text()
    copied = re.findall(r"^COPY --chown=ray:users (.+) \S+$", text, re.MULTILINE)
    names = [name for line in copied for name in line.split()]
    assert all((ROOT / name).exists() for name in names)
    packages = {path.parent.name for path in ROOT.glob("*/__init__.py")} - {"benchmarks", "tests"}
    assert packages | {"configs", "requirements/gpu.lock"} <= set(names)


@pytest.mark.parametrize("name", ["qwen2.5-math-7b", "qwen2.5-math-72b"])
def test_cluster_has_room_for_the_configs_made_for_it(name):
    check_capacity(demands_of(load_config(f"configs/{name}.yaml")), kinds())


def test_what_a_cluster_can_never_hold_is_refused_with_what_it_has():
    config = load_config(
        "configs/qwen2.5-math-7b.yaml", ["engine.tensor_parallel_size=16", "sft.num_workers=8"]
    )
    with pytest.raises(PsrError, match=r"engine of 1 CPU, 16 GPU; no node .* never spread over"):
        check_capacity(demands_of(config), kinds())
    config = load_config("configs/qwen2.5-math-7b.yaml", ["dpo.num_workers=1000"])
    with pytest.raises(PsrError, match=r"1000 training worker.*more than 128 .*dpo\.num_workers"):
        check_capacity(demands_of(config), kinds())
    with pytest.raises(PsrError, match="no nodes"):
        check_capacity(demands_of(config), [])


# Fields of KubeRay 1.6 (its API reference, ray.io/v1) that the file may use, with their kinds.
RAY_JOB = {
    "entrypoint": str, "submissionMode": {"K8sJobMode", "HTTPMode", "SidecarMode", "InteractiveMode"},
    "backoffLimit": int, "shutdownAfterJobFinishes": bool, "ttlSecondsAfterFinished": int,
    "rayClusterSpec": {
        "rayVersion": str, "enableInTreeAutoscaling": bool,
        "authOptions": {"mode": {"token", "disabled"}, "secretName": str},
        "autoscalerOptions": {
            "idleTimeoutSeconds": int, "upscalingMode": {"Default", "Aggressive", "Conservative"}
        },
        "headGroupSpec": {"rayStartParams": dict, "template": dict},
        "workerGroupSpecs": [{
            "groupName": str, "replicas": int, "minReplicas": int, "maxReplicas": int,
            "numOfHosts": int, "rayStartParams": dict, "template": dict,
        }],
    },
}  # fmt: skip


def conforms(value, kind, place="spec"):
    if isinstance(kind, set):
        assert value in kind, place
    elif isinstance(kind, list):
        for index, item in enumerate(value):
            conforms(item, kind[0], f"{place}[{index}]")
    elif isinstance(kind, dict):
        assert value.keys() <= kind.keys(), place
        for name, item in value.items():
            conforms(item, kind[name], f"{place}.{name}")
    else:
        assert isinstance(value, kind), place


# What kuberay/kustomization.yaml has to be edited for, and as what.
MINE = {
    "registry.example.com": "r.mine.org", "YOUR-BUCKET": "mine", "111122223333": "123412341234",
}  # fmt: skip


def kustomized():
    """What `kubectl apply -k kuberay` applies when kustomization.yaml was edited, by kind: the resources
    with images and patches replaced."""
    folder = ROOT / "kuberay"
    text = (folder / "kustomization.yaml").read_text()
    for theirs, mine in MINE.items():
        assert theirs in text
        text = text.replace(theirs, mine)
    wanted = yaml.safe_load(text)
    assert wanted.keys() == {"apiVersion", "kind", "resources", "images", "patches"}
    [image] = wanted["images"]
    things = {}
    for name in wanted["resources"]:
        text = (folder / name).read_text()
        replaced = f"image: {image['newName']}:{image['newTag']}"
        text, num = re.subn(rf"image: {image['name']}:\S+", replaced, text)
        assert num == text.count("image: ")
        thing = yaml.safe_load(text)
        things[thing["kind"]] = thing
    for patch in wanted["patches"]:
        thing = things[patch["target"]["kind"]]
        assert thing["metadata"]["name"] == patch["target"]["name"]
        for change in yaml.safe_load(patch["patch"]):
            assert change["op"] == "replace"
            *parents, last = [p.replace("~1", "/") for p in change["path"].strip("/").split("/")]
            place = thing
            for part in parents:
                place = place[part]
            assert isinstance(place[last], str)  # what is not there cannot be replaced
            place[last] = change["value"]
    return things


def rayjob():
    """The RayJob as its file has it."""
    return yaml.safe_load((ROOT / "kuberay" / "rayjob.yaml").read_text())


@pytest.mark.parametrize(
    "job", [rayjob(), kustomized()["RayJob"]], ids=["as written", "kustomized"]
)
def test_rayjob_has_the_fields_of_its_kind_and_pods_that_kubernetes_takes(job):
    assert (job["apiVersion"], job["kind"]) == ("ray.io/v1", "RayJob")
    conforms(job["spec"], RAY_JOB)
    spec = job["spec"]["rayClusterSpec"]
    groups = [spec["headGroupSpec"], *spec["workerGroupSpecs"]]
    for group in groups:
        pod = {
            "apiVersion": "v1", "kind": "PodTemplate", "metadata": {"name": "group"},
            "template": group["template"],
        }  # fmt: skip
        kubernetes_validate.validate(pod, "1.33", strict=True)
        for value in group["rayStartParams"].values():
            assert isinstance(value, str)  # Ray's parameters are strings there
    assert spec["headGroupSpec"]["rayStartParams"]["num-gpus"] == "0"
    assert {group["minReplicas"] for group in spec["workerGroupSpecs"]} == {0}
    assert spec["authOptions"]["mode"] == "token"
    [head] = spec["headGroupSpec"]["template"]["spec"]["containers"]
    assert f"WORKDIR {head['workingDir']}\n" in (ROOT / "Dockerfile").read_text()
    host = spec["headGroupSpec"]["rayStartParams"].get("dashboard-host", "0.0.0.0")
    assert host != "127.0.0.1"  # the submitter asks the head's service
    spot = {group["groupName"] for group in spec["workerGroupSpecs"]}
    assert spot == {"gpu-7b", "gpu-7b-spot", "gpu-72b", "gpu-72b-spot"}


def test_kustomize_needs_no_edits_but_its_own_file():
    """Account, registry and bucket of rayjob.yaml and serviceaccount.yaml are all replaced."""
    things = kustomized()
    kubernetes_validate.validate(things["ServiceAccount"], "1.33", strict=True)
    text = yaml.safe_dump_all(things.values())
    assert not [theirs for theirs in (*MINE, "YOUR-") if theirs in text]
    assert all(mine in text for mine in MINE.values())


def test_every_way_to_start_a_cluster_sets_the_keepalive_that_is_tested():
    for file in ("Dockerfile", "slurm/run.sbatch", "skypilot/run.yaml"):
        text = (ROOT / file).read_text()
        assert " ".join(f"{name}={value}" for name, value in KEEPALIVE.items()) in text


def test_batch_script_and_sky_file_can_be_read():
    subprocess.run(["bash", "-n", "slurm/run.sbatch"], check=True)
    task = yaml.safe_load((ROOT / "skypilot" / "run.yaml").read_text())
    for part in ("setup", "run"):
        subprocess.run(["bash", "-n"], input=task[part], text=True, check=True)


def test_upload_of_a_job_is_small_and_has_what_it_needs(tmp_path):
    from ray._private.runtime_env.packaging import create_package

    excludes = yaml.safe_load((ROOT / "runtime_env.yaml").read_text())["excludes"]
    package = tmp_path / "upload.zip"
    create_package(str(ROOT), package, include_gitignore=True, excludes=excludes)
    assert package.stat().st_size < MAX_UPLOAD
    names = zipfile.ZipFile(io.BytesIO(package.read_bytes())).namelist()
    wanted = {"jobs/run.py", "psr_ray/cli/app.py", "actors/driver.py", "configs/demo.yaml"}
    wanted |= {"psr_ray/embedded/demo.yaml", "psr_ray/embedded/tiny-m0/model.safetensors"}
    assert wanted <= set(names)
    assert not [name for name in names if name.startswith(("runs/", "models/", ".venv/", ".git/"))]


# Where a command of docs/cluster.md is executed, and how the test writes it.
EXECUTED = {
    "export RAY_ADDRESS": ("test_hosts.py", '"RAY_ADDRESS": "http://127.0.0.1:8265"'),
    "ray job submit": ("test_hosts.py", "ray job submit --submission-id"),
    "ray job logs -f": ("test_hosts.py", '"ray", "job", "logs", "-f"'),
    "ray job stop": ("test_jobs.py", 'head.job("stop"'),
    "psr-ray status": ("test_hosts.py", '"psr-ray", "status", "smoke", "--runs-dir", RUNS'),
    "mkdir -p ~/.ray": ("test_hosts.py", "make_token"),
    "ray up cluster.yaml": ("test_hosts.py", '"ray", "up", "--yes", "cluster.yaml"'),
}
# Commands of tools that need an account or an engine of containers; the page says so.
NOT_HERE = {"aws", "docker"}


def test_each_command_of_the_clusters_page_names_its_test_or_is_said_not_to_be_tried():
    page = (ROOT / "docs" / "cluster.md").read_text()
    blocks = re.findall(r"^```(\w*)\n(.*?)^```$", page, re.DOTALL | re.MULTILINE)
    shell = [block for language, block in blocks if not language]
    commands = [
        line for block in shell for line in block.replace("\\\n", " ").splitlines() if line.strip()
    ]
    assert len(commands) > 8
    untried = page.partition("Not tried, for want of a cloud:")[2].partition("\n#")[0]
    for command in commands:
        if command.split()[0] in NOT_HERE:
            assert f"`{command.split()[0]}`" in untried
            continue
        [(file, written)] = [EXECUTED[name] for name in EXECUTED if command.startswith(name)]
        assert written in (ROOT / "tests" / file).read_text(), command
