"""Colours and type: one colour each for frozen, common and specific, everywhere."""

import gradio as gr

# Apart for every kind of colour vision, and at least 3:1 against both white and near-black.
FROZEN = "#7f8a99"
COMMON = "#3b7dc4"
SPECIFIC = "#d9781f"

# For mentions in a text: apart from the three above and from each other (Paul Tol's muted scheme).
MENTIONS = (
    *("#44aa99", "#aa4499", "#999933", "#cc6677", "#88ccee", "#117733", "#882255", "#ddcc77"),
    "#332288",
)

# What the machine has; no font is ever fetched.
FONT = (
    *("system-ui", "-apple-system", "Segoe UI", "Roboto", "PingFang SC", "Hiragino Sans GB"),
    *("Microsoft YaHei", "Noto Sans CJK SC", "Noto Sans SC", "WenQuanYi Zen Hei", "sans-serif"),
)
_MONO = ("ui-monospace", "SFMono-Regular", "Menlo", "Consolas", "monospace")

_INK = gr.themes.Color(
    *("#f7f8fa", "#eef0f4", "#e1e5eb", "#cbd2dc", "#98a2b3", "#667085"),
    *("#475062", "#343c4b", "#20262f", "#171b22", "#0f1217"),
    name="ink",
)


def theme() -> gr.themes.Base:
    """The app's theme: ink on paper, colour only where it means something."""
    return gr.themes.Base(
        primary_hue=_INK,
        secondary_hue=_INK,
        neutral_hue=_INK,
        text_size=gr.themes.sizes.text_md,
        radius_size=gr.themes.sizes.radius_md,
        font=FONT,
        font_mono=_MONO,
    ).set(
        body_background_fill="#fbfbfc",
        body_background_fill_dark="*neutral_950",
        body_text_color="*neutral_900",
        body_text_color_subdued="*neutral_500",
        background_fill_primary_dark="*neutral_900",
        background_fill_secondary_dark="*neutral_950",
        border_color_primary_dark="*neutral_800",
        block_background_fill="transparent",
        block_background_fill_dark="transparent",
        block_border_width="0px",
        block_padding="0px",
        block_label_background_fill="transparent",
        block_label_background_fill_dark="transparent",
        block_title_text_size="*text_sm",
        block_title_text_weight="500",
        block_title_text_color="*neutral_600",
        block_title_text_color_dark="*neutral_300",
        block_info_text_size="*text_xs",
        input_background_fill="white",
        input_background_fill_dark="*neutral_900",
        input_border_color="*neutral_200",
        input_border_color_dark="*neutral_700",
        input_border_color_focus="*neutral_400",
        input_border_color_focus_dark="*neutral_500",
        input_border_width="1px",
        input_shadow_focus="none",
        button_primary_background_fill="*neutral_900",
        button_primary_background_fill_hover="*neutral_700",
        button_primary_background_fill_dark="*neutral_100",
        button_primary_background_fill_hover_dark="white",
        button_primary_text_color_dark="*neutral_900",
        button_secondary_background_fill="white",
        button_secondary_background_fill_hover="*neutral_100",
        button_secondary_background_fill_dark="*neutral_900",
        button_secondary_background_fill_hover_dark="*neutral_800",
        button_border_width="1px",
        layout_gap="14px",
        panel_border_width="0px",
    )
