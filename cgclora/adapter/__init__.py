"""An adapter on a backbone: attached, routed, folded, saved and loaded."""

from cgclora.adapter.adapter import Adapter as Adapter
from cgclora.adapter.expert_layers import GATES as GATES
from cgclora.adapter.expert_layers import backbone_parameters as backbone_parameters
from cgclora.adapter.expert_layers import folded_in as folded_in
from cgclora.adapter.expert_layers import follow as follow
from cgclora.adapter.expert_layers import initial_A as initial_A
from cgclora.adapter.expert_layers import stacked as stacked
from cgclora.adapter.planning import Row as Row
from cgclora.adapter.planning import TaskRow as TaskRow
