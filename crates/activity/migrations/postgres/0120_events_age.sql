-- What is old is found office by office, in the order of its time: nothing asks for all offices' events by age.
DROP INDEX events_by_age;
