"""torch modules against torch itself in float64, and against their gradients."""

from __future__ import annotations

import numpy as np
import pytest

import verifier.network.loading as loading
from verifier.errors import InputError, NetworkError, UnsupportedOperatorError

torch = pytest.importorskip("torch")
from torch import nn  # noqa: E402
from torch.nn import functional as F  # noqa: E402


class Residual(nn.Module):
    def __init__(self):
        super().__init__()
        self.first = nn.Conv2d(2, 4, 3, padding=1)
        self.norm = nn.BatchNorm2d(4)
        self.second = nn.Conv2d(4, 4, 3, padding=1, groups=2)
        self.skip = nn.Conv2d(2, 4, 1, bias=False)
        self.last = nn.Linear(16, 3)
        self.register_buffer("mean", torch.tensor([0.3, -0.2]).view(2, 1, 1))

    def forward(self, x):
        x = (x - self.mean) / 0.5
        y = F.relu(self.norm(self.first(x)))
        y = self.second(y) + self.skip(x)
        y = F.max_pool2d(torch.relu(y), 2)
        y = F.avg_pool2d(y, 2, stride=1)
        y = torch.cat([y, -y], dim=1)[:, 1:5]
        return self.last(y.reshape(x.size(0), -1).repeat(1, 4)[:, :16])


class Tricks(nn.Module):
    def __init__(self):
        super().__init__()
        self.matrix = nn.Parameter(torch.randn(6, 4))

    def forward(self, x):
        a, b = x.chunk(2, dim=1)
        c = torch.maximum(a, 0.5 * b) - torch.clamp(b, min=-0.2)
        d = F.leaky_relu(c.permute(0, 2, 1), 0.2).flatten(1)
        e = d @ self.matrix
        e += 1.0
        return torch.abs(e).mean(dim=1, keepdim=True) + F.hardtanh(e).sum(dim=-1, keepdim=True)


def conv_net(*layers):
    return nn.Sequential(*layers, nn.Flatten(), nn.LazyLinear(3))


MODULES = {
    "dense": (nn.Sequential(nn.Linear(5, 8), nn.ReLU(), nn.Linear(8, 6), nn.LeakyReLU(0.1), nn.Linear(6, 3)), (5,)),
    "activations": (
        nn.Sequential(
            nn.Linear(4, 6), nn.PReLU(6), nn.Linear(6, 6), nn.Hardtanh(-0.5, 0.25), nn.Linear(6, 6), nn.ReLU6()
        ),
        (4,),
    ),
    "conv": (
        conv_net(nn.Conv2d(1, 4, 3, stride=2, padding=1), nn.ReLU(), nn.Dropout2d(), nn.MaxPool2d(3, 2, 1)),
        (1, 9, 9),
    ),
    "conv same": (
        conv_net(nn.Conv2d(1, 2, (2, 3), padding="same"), nn.ReLU(), nn.MaxPool2d(2, ceil_mode=True)),
        (1, 5, 5),
    ),
    "conv 1d": (conv_net(nn.Conv1d(2, 3, 3, dilation=2), nn.BatchNorm1d(3), nn.ReLU(), nn.MaxPool1d(2)), (2, 11)),
    "pools": (
        conv_net(
            nn.AvgPool2d(3, 2, 1), nn.ReLU(), nn.AvgPool2d(2, 1, 1, count_include_pad=False), nn.AdaptiveAvgPool2d(1)
        ),
        (2, 7, 7),
    ),
    "residual": (Residual(), (2, 4, 4)),
    "tricks": (Tricks(), (4, 3)),
}


def prepared(module, shape, seed=0):
    """A module with its lazy layers made and its running statistics moved off their start."""
    torch.manual_seed(seed)
    with torch.no_grad():
        module.eval()(torch.zeros(1, *shape))
        module.train()(torch.randn(16, *shape))
    return module.eval()


@pytest.mark.filterwarnings("ignore:Using padding='same':UserWarning")
@pytest.mark.parametrize("name", MODULES)
def test_agrees_with_torch_in_float64(name):
    module, shape = MODULES[name]
    network = loading.load(prepared(module, shape), shape)
    assert network.input_shape == shape
    twin = __import__("copy").deepcopy(module).double()
    x = torch.randn(20, *shape, dtype=torch.float64, requires_grad=True)
    expected = twin(x)
    np.testing.assert_allclose(network.forward(x.detach().numpy()), expected.detach().numpy(), rtol=1e-11, atol=1e-11)
    (gradient,) = torch.autograd.grad(expected.reshape(20, -1)[:, 0].sum(), x)
    np.testing.assert_allclose(network.gradient(x.detach().numpy(), 0), gradient.numpy(), rtol=1e-9, atol=1e-11)


def test_pools_that_round_up():
    module = prepared(conv_net(nn.AvgPool2d(2, 2, ceil_mode=True), nn.ConstantPad2d(1, 0.5), nn.ReLU()), (1, 5, 5))
    network = loading.load(module, (1, 5, 5))
    x = torch.randn(5, 1, 5, 5, dtype=torch.float64)
    np.testing.assert_allclose(network.forward(x.numpy()), module.double()(x).detach().numpy(), atol=1e-12)


def test_the_module_is_left_as_it_was():
    module = nn.Sequential(nn.Linear(3, 3), nn.Dropout(0.5), nn.ReLU()).train()
    network = loading.load(module, (3,))
    assert module.training
    assert module[0].weight.dtype == torch.float32
    dense = network.nodes[1].operator
    assert (dense.weight == module[0].weight.detach().double().numpy()).all()


def test_errors_name_the_place():
    with pytest.raises(UnsupportedOperatorError, match=r"Sequential: 1.*rrelu.*inspect --operators"):
        loading.load(nn.Sequential(nn.Linear(3, 3), nn.RReLU()), (3,))
    with pytest.raises(InputError, match="input_shape"):
        loading.load(nn.Linear(3, 3))
    with pytest.raises(NetworkError, match="cannot be run on an input"):
        loading.load(nn.Sequential(nn.Linear(3, 3)), (4,))
    bad = nn.Linear(3, 3)
    with torch.no_grad():
        bad.weight[0, 0] = float("nan")
    with pytest.raises(NetworkError, match="NaN"):
        loading.load(nn.Sequential(bad), (3,))

    class Powers(nn.Module):
        def forward(self, x):
            return x.abs() ** x

    with pytest.raises(UnsupportedOperatorError, match="computed exponent"):
        loading.load(Powers(), (3,))
    with pytest.raises(UnsupportedOperatorError, match=r"RMSNorm without eps.*eps=1e-6"):
        loading.load(nn.RMSNorm(3), (3,))

    class Branching(nn.Module):
        def forward(self, x):
            return x if x.sum() > 0 else -x

    with pytest.raises(NetworkError, match="exported"):
        loading.load(Branching(), (3,))


def skip(change):
    """A residual connection around whatever happens to the rectified input in place."""

    class Skip(nn.Module):
        def __init__(self):
            super().__init__()
            self.relu = nn.ReLU(inplace=True)

        def forward(self, x):
            h = x * 1.0
            return change(self, h) + h

    return Skip()


def rectified_statement(module, h):
    y = h * 2
    y.relu_()
    return y


def clamped_statement(module, h):
    h.clamp_(min=-0.1, max=0.4)
    return h * 3


def counted_up(module, h):
    k = h
    k += 1
    return k * 2


def scaled_through_a_view(module, h):
    h[:, 1:].mul_(2)
    h[:, 0] = h[:, 2]
    return h.view(-1, 2)[0].relu_().repeat(2).view(1, 4)


def written_into_zeros(module, h):
    z = torch.zeros(1, 4, dtype=h.dtype)
    z[:, 1:3] = h[:, :2]
    z[:, h.new_tensor([True, False, False, True]).bool()] = 0.25
    return z


IN_PLACE = {
    "a module": lambda module, h: 0.5 * module.relu(h),
    "a function": lambda module, h: F.relu(h, inplace=True) * 0.5,
    "a statement": rectified_statement,
    "clamp": clamped_statement,
    "+=": counted_up,
    "views": scaled_through_a_view,
    "writing into zeros": written_into_zeros,
    "without gradients": lambda module, h: torch.no_grad()(lambda a: a.mul_(2))(h),
}


@pytest.mark.parametrize("name", IN_PLACE)
def test_operations_in_place_are_taken_for_what_they_do(name):
    module = skip(IN_PLACE[name]).eval()
    network = loading.load(module, (4,))
    for _ in range(10):
        x = torch.randn(1, 4, dtype=torch.float64)
        np.testing.assert_allclose(network.forward(x[0].numpy()), module(x.clone())[0].numpy(), rtol=1e-12, atol=1e-12)


def test_the_label_is_the_modules_own_where_a_relu_in_place_feeds_a_skip_connection():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.relu, self.head = nn.ReLU(inplace=True), nn.Linear(1, 2)
            with torch.no_grad():
                self.head.weight[:] = torch.tensor([[1.0], [0.1]])
                self.head.bias[:] = torch.tensor([0.0, -0.05])

        def forward(self, x):
            h = x * 1.0
            return self.head(self.relu(h) + h)

    network = loading.load(Net(), (1,))
    assert np.argmax(network.forward([-0.5])) == 0  # read as if h stayed -0.5 it would be 1


class Counting(nn.Module):
    def __init__(self):
        super().__init__()
        self.register_buffer("calls", torch.zeros(1))

    def forward(self, x):
        self.calls += 1
        return x * self.calls


def test_a_module_that_changes_itself_is_refused():
    with pytest.raises(NetworkError, match="calls"):
        loading.load(Counting(), (3,))


def test_dropout_that_stays_in_training_is_refused():
    class Dropping(nn.Module):
        def forward(self, x):
            return F.dropout(x)

    with pytest.raises(UnsupportedOperatorError, match="random"):
        loading.load(Dropping(), (3,))


def test_a_reader_that_differs_from_the_module_is_caught(monkeypatch):
    import verifier.network.torch_operators as table

    monkeypatch.setitem(table.CONVERTERS, "relu", lambda b, name, x: x)
    with pytest.raises(NetworkError, match="differs from the module"):
        loading.load(nn.Sequential(nn.Linear(3, 3), nn.ReLU()), (3,))


def test_a_module_that_asks_for_float32_is_read_in_float32():
    class Asks(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = nn.Linear(3, 2)

        def forward(self, x):
            return self.inner(x.float()).relu()

    module = Asks()
    network = loading.load(module, (3,))
    x = np.random.default_rng(0).normal(size=3)
    np.testing.assert_allclose(network.forward(x), module(torch.tensor(x)[None])[0].detach().numpy(), atol=1e-6)
