"""The base classes of views and of the queries in their addresses."""

from typing import TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError
from starlette.datastructures import QueryParams

from crucible.errors import InvalidRequest
from nsai_work.errors import InvalidJob

Q = TypeVar("Q", bound="ViewQuery")


class View(BaseModel):
    """The data of a page. Its JSON form is the page's JSON twin, in which NaN is null."""

    model_config = ConfigDict(frozen=True, extra="forbid", ser_json_inf_nan="null")


class ViewQuery(BaseModel):
    """The parameters of a page's address."""

    model_config = ConfigDict(frozen=True, extra="forbid")


def parse_query(model: type[Q], parameters: QueryParams) -> Q:
    """Parse the parameters of an address; empty ones, as of an empty field of a form, count as absent.

    Raises:
        InvalidRequest: a parameter is unknown or invalid; the error names it.
    """
    values: dict[str, object] = {}
    for name in parameters:
        given = [value for value in parameters.getlist(name) if value != ""]
        if given:
            is_list = name in model.model_fields and "list" in str(model.model_fields[name].annotation)
            values[name] = given if is_list else given[-1]
    try:
        return model.model_validate(values)
    except ValidationError as error:
        raise InvalidRequest(InvalidJob.from_validation(error, model).message) from None
