"""A cloud of test hosts for Ray's autoscaler: its node provider asks the test's process for hosts."""

import os
import threading
from multiprocessing.connection import Client, Listener

from ray.autoscaler.node_launch_exception import NodeLaunchException
from ray.autoscaler.node_provider import NodeProvider
from ray.autoscaler.tags import TAG_RAY_USER_NODE_TYPE


class HostProvider(NodeProvider):
    """``provider_config["socket"]`` is where the test's process listens."""

    def _ask(self, question, *arguments):
        with Client(self.provider_config["socket"], "AF_UNIX") as connection:
            connection.send((question, arguments))
            return connection.recv()

    def non_terminated_nodes(self, tag_filters):
        return self._ask("machines", tag_filters)

    def is_running(self, node_id):
        return node_id in self._ask("machines", {})

    def is_terminated(self, node_id):
        return not self.is_running(node_id)

    def node_tags(self, node_id):
        return self._ask("tags", node_id)

    def external_ip(self, node_id):
        return self._ask("address", node_id)

    internal_ip = external_ip

    def create_node(self, node_config, tags, count):
        made = self._ask("create", tags, count)
        if made is None:
            raise NodeLaunchException("InsufficientInstanceCapacity", "no such node", None)
        return made

    def set_node_tags(self, node_id, tags):
        self._ask("set_tags", node_id, tags)

    def terminate_node(self, node_id):
        self._ask("terminate", node_id)


class Cloud:
    """What starts and ends hosts when Ray's autoscaler asks (``HostProvider``). ``started`` are the
    kinds of nodes that were asked for, in order; ``on_start`` is called with each new host. Of the kinds
    in ``full`` it has none: those that were asked for are in ``refused``."""

    def __init__(self, hosts, on_start=lambda host: None, full=(), **variables):
        self.full, self.refused = full, []
        self.hosts, self.variables, self.on_start = hosts, variables, on_start
        self.socket = str(hosts.folder / "cloud.socket")
        self.nodes, self.started = {}, []
        self.listener = Listener(self.socket, "AF_UNIX")
        os.chmod(self.socket, 0o777)
        self.thread = threading.Thread(target=self._answer, daemon=True)
        self.thread.start()

    def _answer(self):
        while True:
            try:
                with self.listener.accept() as connection:
                    question, arguments = connection.recv()
                    connection.send(getattr(self, question)(*arguments))
            except (EOFError, ConnectionError):
                continue  # the one that asked is gone
            except OSError:
                return  # closed

    def machines(self, tags):
        return [name for name, (_, found) in self.nodes.items() if tags.items() <= found.items()]

    def tags(self, name):
        return self.nodes[name][1]

    def address(self, name):
        return self.nodes[name][0].address

    def set_tags(self, name, tags):
        self.nodes[name][1].update(tags)

    def create(self, tags, count):
        made, kind = {}, tags[TAG_RAY_USER_NODE_TYPE]
        if kind in self.full:
            self.refused.append(kind)
            return None
        for _ in range(count):
            name = f"{kind.replace('_', '-')}-{len(self.started)}"
            self.started.append(kind)
            host = self.hosts.add(name, **self.variables)
            self.on_start(host)
            self.nodes[name] = host, dict(tags)
            made[name] = {}
        return made

    def terminate(self, name):
        self.nodes.pop(name)[0].end()

    def end(self):
        self.listener.close()
