"""cluster.yaml and aws/stack.yaml, as AWS is asked for them: an AWS that answers as it does (moto)."""

import re

import boto3
import pytest
import yaml
from conftest import ROOT
from stores import Store

STACK = ROOT / "aws" / "stack.yaml"
MINE = "203.0.113.1/32"


@pytest.fixture
def account(tmp_path, monkeypatch):
    """The stack's outputs in an empty account."""
    monkeypatch.setenv("HOME", str(tmp_path))  # Ray makes a key pair there
    (tmp_path / ".ray").mkdir()
    (tmp_path / ".ray" / "auth_token").write_text("0" * 64)
    store = Store(tmp_path / "aws.log")
    with store.used():
        images = boto3.client("ec2").describe_images(Owners=["amazon"])["Images"]
        boto3.client("ssm").put_parameter(Name="/image", Value=images[0]["ImageId"], Type="String")
        template = STACK.read_text()
        # CloudFormation refuses them
        assert not any(isinstance(event, yaml.AliasEvent) for event in yaml.parse(template))
        [name] = re.findall(r"Default: (/aws/service/\S+)", template)
        [vpc] = boto3.client("ec2").describe_vpcs()["Vpcs"]
        values = {"Vpc": vpc["VpcId"], "MyAddress": MINE}
        stacks = boto3.client("cloudformation")
        stacks.create_stack(
            StackName="psr-ray", TemplateBody=template.replace(name, "/image"),
            Parameters=[{"ParameterKey": k, "ParameterValue": v} for k, v in values.items()],
            Capabilities=["CAPABILITY_NAMED_IAM"],
        )  # fmt: skip
        [stack] = stacks.describe_stacks(StackName="psr-ray")["Stacks"]
        assert stack["StackStatus"] == "CREATE_COMPLETE"
        yield {output["OutputKey"]: output["OutputValue"] for output in stack["Outputs"]}
    store.end()


def edited(outputs):
    """cluster.yaml with the stack's outputs where it says EDIT."""
    text = (ROOT / "cluster.yaml").read_text()
    changes = {
        "ami-00000000000000000": outputs["ImageId"],
        "sg-00000000000000000": outputs["SecurityGroupId"],
        "111122223333.dkr.ecr.us-east-1.amazonaws.com": outputs["Registry"],
    }
    for old, new in changes.items():
        assert old in text
        text = text.replace(old, new)
    return yaml.safe_load(text)


def rules(group):
    """Who may reach nodes of a security group: protocol, ports, addresses, groups."""
    [found] = boto3.client("ec2").describe_security_groups(GroupIds=[group])["SecurityGroups"]
    return [
        (
            rule["IpProtocol"],
            rule.get("FromPort"),
            [each["CidrIp"] for each in rule["IpRanges"]],
            [each["GroupId"] for each in rule["UserIdGroupPairs"]],
        )
        for rule in found["IpPermissions"]
    ]


@pytest.mark.slow
def test_ray_asks_for_what_the_file_says_and_opens_nothing(account):
    from ray.autoscaler._private.aws.config import bootstrap_aws
    from ray.autoscaler._private.aws.node_provider import AWSNodeProvider
    from ray.autoscaler._private.util import prepare_config, validate_config
    from ray.autoscaler.tags import TAG_RAY_CLUSTER_NAME, TAG_RAY_NODE_KIND

    group = account["SecurityGroupId"]
    allowed = [("tcp", 22, [MINE], []), ("-1", None, [], [group])]
    assert rules(group) == allowed
    groups = len(boto3.client("ec2").describe_security_groups()["SecurityGroups"])
    config = prepare_config(edited(account))
    validate_config(config)
    config = bootstrap_aws(config)
    assert rules(group) == allowed
    assert len(boto3.client("ec2").describe_security_groups()["SecurityGroups"]) == groups
    provider = AWSNodeProvider(config["provider"], config["cluster_name"])
    for name, kind in config["available_node_types"].items():
        is_head = name == config["head_node_type"]
        tags = {TAG_RAY_NODE_KIND: "head" if is_head else "worker"}
        [node] = provider.create_node(dict(kind["node_config"]), tags, 1).values()
        shown = boto3.client("ec2").describe_instances(InstanceIds=[node.id])
        instance = shown["Reservations"][0]["Instances"][0]
        assert instance["ImageId"] == account["ImageId"]
        assert instance["InstanceType"] == kind["node_config"]["InstanceType"]
        assert [each["GroupId"] for each in instance["SecurityGroups"]] == [group]
        profile = "psr-ray-head" if is_head else "psr-ray-worker"
        assert instance["IamInstanceProfile"]["Arn"].endswith(f"/{profile}")
        assert (instance.get("InstanceLifecycle") == "spot") == name.endswith("_spot")
        pairs = boto3.client("ec2").describe_key_pairs(KeyNames=[instance["KeyName"]])["KeyPairs"]
        assert len(pairs) == 1  # Ray made it
        asked = kind["node_config"]
        [disk] = instance["BlockDeviceMappings"]
        [wanted] = asked["BlockDeviceMappings"]
        assert disk["DeviceName"] == wanted["DeviceName"]
        volumes = boto3.client("ec2").describe_volumes(VolumeIds=[disk["Ebs"]["VolumeId"]])[
            "Volumes"
        ]
        [volume] = [each | {"VolumeSize": each["Size"]} for each in volumes]
        assert wanted["Ebs"].items() <= volume.items()
        assert asked["MetadataOptions"].items() <= instance["MetadataOptions"].items()
        found = {tag["Key"]: tag["Value"] for tag in instance["Tags"]}
        assert found[TAG_RAY_CLUSTER_NAME] == "psr-ray"
        provider.terminate_node(node.id)
        shown = boto3.client("ec2").describe_instances(InstanceIds=[node.id])
        state = shown["Reservations"][0]["Instances"][0]["State"]["Name"]
        assert state in ("shutting-down", "terminated")


def test_the_head_may_start_workers_and_only_workers_and_all_may_use_the_bucket(account):
    iam = boto3.client("iam")

    def document(found):
        return yaml.safe_load(found) if isinstance(found, str) else found

    def policy(role, name):
        return document(iam.get_role_policy(RoleName=role, PolicyName=name)["PolicyDocument"])

    def actions(profile):
        [role] = iam.get_instance_profile(InstanceProfileName=profile)["InstanceProfile"]["Roles"]
        names = iam.list_role_policies(RoleName=role["RoleName"])["PolicyNames"]
        found = [
            statement for name in names for statement in policy(role["RoleName"], name)["Statement"]
        ]
        return role["Arn"], found

    worker, of_worker = actions("psr-ray-worker")
    _, of_head = actions("psr-ray-head")
    bucket = account["RunsDir"].removeprefix("s3://").removesuffix("/runs")
    for statements in (of_worker, of_head):
        of_bucket = [s for s in statements if s["Resource"] == f"arn:aws:s3:::{bucket}/*"]
        assert {"s3:GetObject", "s3:PutObject", "s3:DeleteObject"} <= set(of_bucket[0]["Action"])
    assert not any("ec2:" in str(statement) for statement in of_worker)
    [passing] = [s for s in of_head if s["Action"] == "iam:PassRole"]
    assert passing["Resource"] == worker
    name = yaml.safe_load((ROOT / "cluster.yaml").read_text())["cluster_name"]
    ours = {"StringEquals": {"aws:ResourceTag/ray-cluster-name": name}}
    as_they_start = {"StringEquals": {"ec2:CreateAction": "RunInstances"}}
    for statement in of_head:
        if "TerminateInstances" in str(statement["Action"]):
            assert statement["Condition"] == ours
        elif "CreateTags" in str(statement["Action"]):
            assert statement["Condition"] == as_they_start
    assert boto3.client("s3").list_objects_v2(Bucket=bucket)["KeyCount"] == 0
